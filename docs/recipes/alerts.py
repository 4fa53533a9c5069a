"""Alerts: what somebody should know of at once, such as a caller who gave up while parked."""

import asyncio
import os

from blackhole_events import BlackholeClient

BINDINGS = ["call.PARK_ABANDONED.*", "fax.status.*", "notifications.*.*"]


def alert(event: dict) -> str | None:
    body = event["args"]
    if event["name"] == "PARK_ABANDONED":
        return f"{body.get('Caller-ID-Number', 'somebody')} hung up while parked"
    if body.get("Fax-State") == "error":
        return f"fax {body['Job-ID']} failed: {body.get('Status', 'unknown')}"
    if body["Event-Category"] == "notification":
        return f"notification {event['name']}"
    return None


async def main() -> None:
    async with BlackholeClient(os.environ["EVENTS_URL"], token=os.environ["TOKEN"]) as client:
        async with client.watch(None, BINDINGS) as events:
            await events.subscribed
            print("ready", flush=True)
            async for message in events:
                text = alert(message) if message["action"] == "event" else None
                if text is not None:
                    print("ALERT", text, flush=True)


asyncio.run(main())
