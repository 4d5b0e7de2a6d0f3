"""`[cluster]` of agent.toml: what fits, and that everything else is refused with the key's name."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.agent.settings import read_settings
from stockade.model.reasons import ReasonCode, StockadeError

GOOD = """[cluster]
node = "one"
addresses = ["10.0.0.100"]
members = { one = "10.0.0.1", two = "10.0.0.2" }
secret_file = "SECRET"
port = 4551
hook = ["/bin/true", "now"]
"""


def read(folder: Path, text: str, mode: int = 0o600):
    secret = folder / "secret"
    secret.write_text("sixteen bytes and some more\n")
    secret.chmod(mode)
    path = folder / "agent.toml"
    path.write_text(text.replace("SECRET", str(secret)))
    return read_settings(path)


def test_what_it_says_is_taken(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    cluster = settings.cluster
    assert cluster is not None
    assert cluster.addresses == (ip_address("10.0.0.100"),)
    assert cluster.others == {"two": ip_address("10.0.0.2")}
    assert cluster.secret.reveal() == b"sixteen bytes and some more"
    assert (cluster.port, cluster.hook) == (4551, ("/bin/true", "now"))
    assert settings.ike.advertise_cluster
    assert not read(tmp_path, GOOD + "[ike]\nadvertise_cluster = false\n").ike.advertise_cluster
    assert "sixteen" not in repr(settings)


def test_without_the_table_there_is_no_cluster(tmp_path: Path) -> None:
    settings = read(tmp_path, "")
    assert settings.cluster is None
    assert not settings.ike.advertise_cluster


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("port = 4551", "port = 500", "port"),
        ("port = 4551", 'port = "many"', "port"),
        ('node = "one"', 'node = "three"', "three"),
        ("10.0.0.100", "10.0.0", "10.0.0"),
        ("10.0.0.100", "10.0.0.2", "own"),
        ("/bin/true", "true", "hook"),
        ("SECRET", "/nowhere/at/all", "secret_file"),
        ("SECRET", "relative", "secret_file"),
        ("secret_file", "secretfile", "secretfile"),
    ],
)
def test_what_does_not_fit_stops_the_start(tmp_path: Path, old: str, new: str, word: str) -> None:
    with pytest.raises(StockadeError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert caught.value.reason.code is ReasonCode.INVALID_SETTING
    assert word in str(caught.value)


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StockadeError, match="chmod 600"):
        read(tmp_path, GOOD, 0o644)
