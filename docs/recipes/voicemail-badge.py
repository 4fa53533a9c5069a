"""Voicemail badge: how many new messages each user has, now and at every change."""

import asyncio
import os

from blackhole_events import BlackholeClient


async def main() -> None:
    async with BlackholeClient(os.environ["EVENTS_URL"], token=os.environ["TOKEN"]) as client:
        async with client.watch(None, "presence.mwi_updates.*", state=True) as boxes:
            async for message in boxes:
                if message["action"] == "event":
                    user = message["args"]["To"].split("@")[0]
                    print(user, message["args"]["Messages-New"], flush=True)


asyncio.run(main())
