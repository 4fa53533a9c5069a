"""Fax status: the faxes under way, and how they end."""

import asyncio
import os

from blackhole_events import BlackholeClient


async def main() -> None:
    async with BlackholeClient(os.environ["EVENTS_URL"], token=os.environ["TOKEN"]) as client:
        async with client.watch(None, "fax.status.*", state=True) as faxes:
            async for message in faxes:
                if message["action"] == "event":
                    fax = message["args"]
                    page = f", page {fax['Page']}" if "Page" in fax else ""
                    print(f"{fax['Job-ID']} {fax['Fax-State']}: {fax.get('Status', '')}{page}", flush=True)


asyncio.run(main())
