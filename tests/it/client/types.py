"""What the types of the Python package promise."""

import asyncio
from typing import Any

from blackhole_events import BlackholeClient, BlackholeError
from blackhole_events.events import CallBody, FaxBody


async def token() -> str:
    return "eyJ"


def seen(event: dict[str, Any], text: str) -> None:
    print(event["name"], len(text))


async def main() -> None:
    async with BlackholeClient("wss://events.example.com/", token=token, on_event=seen) as client:
        data = await client.subscribe(None, ["call.*.*"], since="-5m")
        print(data["subscribed"], client.state.upper())
        try:
            async with client.watch(None, "fax.status.*", state=True) as faxes:
                async for message in faxes:
                    fax: FaxBody = message["args"]
                    call: CallBody = message["args"]
                    print((fax["Fax-State"] or "").upper(), call["Custom-Channel-Vars"])
                    pages: str = fax["Page"]  # type: ignore[assignment]
                    print(pages)
        except BlackholeError as error:
            print(error.reply)
        client.subscribe(None, 5)  # type: ignore[arg-type]


asyncio.run(main())
