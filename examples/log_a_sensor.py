"""Record a sensor, archive it, and read it back as numpy arrays.

python examples/log_a_sensor.py FOLDER
"""

import json
import math
import sys
from datetime import UTC, datetime, timedelta

from keepline import CaptureServer, init_instance
from keepline.model import Channel, Instrument, StreamSpec
from keepline.sessions import add_instrument

START = datetime(2026, 3, 2, 10, tzinfo=UTC)

with init_instance(sys.argv[1]) as instance:
    add_instrument(Instrument("oven", tz="Europe/Madrid"))
    spec = StreamSpec(step_us=1_000_000, channels=(Channel("temperature", unit="°C"),))
    with CaptureServer(instance.capture_store, "oven", user="ann", spec=spec) as server:
        number = server.start_session(started=START)
        for second in range(600):
            if 200 <= second < 230:
                continue  # the cable was out
            value = 180 + 5 * math.sin(second / 60)
            message = json.dumps({"temperature": value})
            last = server.queue(message, at=START + timedelta(seconds=second))
        server.wait(last, "stored")
        print("stored up to message", server.acknowledged("stored"))
        server.stop_session(ended=START + timedelta(seconds=600))

    archived = instance.archive.archive_session(number)
    print(archived.readings, "readings,", archived.gaps, "gap")
    times_us, values = instance.archive.read(number, "temperature")
    print(f"{values.min():.2f} to {values.max():.2f} over {len(times_us)} readings")
