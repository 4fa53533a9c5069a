"""CRM log: a line for each call that has ended. The next run goes on where this one was ended."""

import asyncio
import json
import os
from pathlib import Path

from blackhole_events import BlackholeClient

PLACE = Path(os.environ["PLACE_FILE"])


async def main() -> None:
    since = PLACE.read_text() if PLACE.exists() else None
    async with BlackholeClient(os.environ["EVENTS_URL"], token=os.environ["TOKEN"]) as client:
        async with client.watch(None, "call.CHANNEL_DESTROY.*", since=since) as calls:
            await calls.subscribed
            print("ready", flush=True)
            async for message in calls:
                if message["action"] == "gap":
                    print("some calls may be missing:", message["reason"], flush=True)
                if message["action"] != "event":
                    continue
                call = message["args"]
                members = ("Caller-ID-Number", "Callee-ID-Number", "Duration-Seconds", "Hangup-Cause")
                print(json.dumps({name: call.get(name) for name in members}), flush=True)
                PLACE.write_text(message["cursor"])


asyncio.run(main())
