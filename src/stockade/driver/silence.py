"""Whether packets go out through a pair of SAs and nothing comes back: what all data planes decide alike.

    packets out    | |   |    |      |
    packets in   |
                   ^ unanswered since here

A pair through which nothing goes out is never silent: that is idleness. And one packet without an answer is
no silence either, as the last packet of every conversation is one."""


def unanswered_since(
    since: float | None, sent: float, heard: float, patience: float, now: float
) -> tuple[float | None, bool]:
    """To be asked about once a second: `since` is what the last call returned first, `sent` and `heard` are
    when a packet last went out and came in, `patience` how long is silence (all seconds of one clock). The
    second value is whether to tell; after that the patience begins anew."""
    if sent <= heard:
        return None, False
    if since is None or heard > since:
        return sent, False
    if now - since >= patience and sent > since:
        return now, True
    return since, False
