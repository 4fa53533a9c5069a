# Does what watch.js does. The tests define `config` and `report`.
import asyncio

from blackhole_events import BlackholeClient, BlackholeError


def give_token():
    report({"token": "asked for"})
    return config["tokens"].pop(0) if isinstance(config["tokens"], list) else config["tokens"]


def seen(event, _text):
    body = event["args"]
    account = body["Custom-Channel-Vars"]["Account-ID"]
    report({"account": account, "binding": event["subscribed_key"], "number": body.get("Number")})


def state_changed(state, detail):
    if "wait" in detail:
        detail = {**detail, "wait": detail["wait"] * 1000}
    report({"state": state, **detail})


async def main():
    options = config["options"]
    state = config.get("state", False)

    def present(what):
        if state:
            report({"present": what["bindings"], "complete": what["complete"]})

    async with BlackholeClient(
        config["url"],
        token=config["token"] if "token" in config else give_token,
        ping_interval=options["pingInterval"] / 1000,
        timeout=options["timeout"] / 1000,
        on_event=seen,
        on_state=state_changed,
        on_present=present,
        on_gap=lambda gap: report({"gap": gap}),
        on_revoked=lambda revoked: report({"revoked": revoked}),
        on_error=lambda error: report({"error": str(error)}),
    ) as client:

        async def subscribe(account, bindings):
            try:
                data = await client.subscribe(account, bindings, state=state)
                report({"subscribed": data["subscribed"]})
            except BlackholeError as error:
                report({"refused": str(error)})

        async def retry():
            while True:
                await asyncio.sleep(config["retryEvery"] / 1000)
                client.retry()

        tasks = [asyncio.create_task(subscribe(*one)) for one in config["subscriptions"]]
        if "retryEvery" in config:
            tasks.append(asyncio.create_task(retry()))
        await client.wait_ended()
        await asyncio.sleep(0)


asyncio.run(main())
