"""Replay: files of measurements, captured as if they were measured now."""
