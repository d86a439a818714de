"""The archive: captured messages decoded, compressed and kept in the SQL store."""
