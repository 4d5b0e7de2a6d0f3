"""The whole chain of group policy of a real domain, for a computer and for an organizational unit."""

import json

CLIENT = "CN=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000}"
SERVER = "CN=ipsecPolicy{72385230-70FA-11D1-864C-14A300000000}"


def chain(domain, *words: str) -> tuple[str | None, dict[str, str]]:
    """The policy, and how each group policy object of ours stands."""
    told = json.loads(domain.stockade("alpha", "rsop", "--domain", "lab.test", *words, "--format", "json"))
    return told["policy"], {one["gpo"]: one["standing"] for one in told["considered"]}


def test_links_blocks_and_enforcement_decide_as_group_policy_does(domain):
    controller = domain.controller
    wide, near = controller.create_gpo("Wide"), controller.create_gpo("Near")
    root = controller.domain_dn
    computer = f"CN=alpha,{domain.servers}"
    try:
        for gpo, policy in ((wide, CLIENT), (near, SERVER)):
            controller.assign(gpo, f"{policy},{domain.container}")
        controller.link_gpo(root, wide)
        controller.link_gpo(domain.servers, near)
        # The nearest wins, for the computer and for the unit that it stands in.
        for words in (("--computer", computer), ("--ou", domain.servers)):
            policy, standing = chain(domain, *words)
            assert policy == "Server (Request Security)"
            assert standing["Near"] == "applied"
            assert standing["Wide"] == "overridden"
        # Elsewhere in the domain only the other one is linked.
        policy, standing = chain(domain, "--ou", f"OU=Domain Controllers,{root}")
        assert (policy, standing["Wide"]) == ("Client (Respond Only)", "applied")
        assert "Near" not in standing
        # Who may not read and apply the nearest one gets the next one.
        controller.tool(
            "dsacl", "set", f"--objectdn={near}", "--action=deny",
            "--sddl=(OD;;CR;edacfd8f-ffb3-11d1-b41d-00a0c968f939;;AU)",
        )  # fmt: skip
        policy, standing = chain(domain, "--computer", computer)
        assert policy == "Client (Respond Only)", standing
        assert standing["Near"] == "security filtering"
        # A block stops what comes from above ...
        controller.online_tool("gpo", "setinheritance", domain.servers, "block")
        policy, standing = chain(domain, "--computer", computer)
        assert (policy, standing["Wide"]) == (None, "inheritance blocked")
        # ... unless it is enforced.
        controller.unlink_gpo(root, wide)
        controller.link_gpo(root, wide, "--enforce")
        policy, standing = chain(domain, "--computer", computer)
        assert (policy, standing["Wide"]) == ("Client (Respond Only)", "applied")
        # A link that is disabled is none.
        controller.unlink_gpo(root, wide)
        controller.link_gpo(root, wide, "--disable")
        policy, standing = chain(domain, "--computer", computer)
        assert (policy, standing["Wide"]) == (None, "link disabled")
    finally:
        controller.online_tool("gpo", "setinheritance", domain.servers, "inherit")
        controller.unlink_gpo(root, wide)
        controller.unlink_gpo(domain.servers, near)


def test_a_computer_that_is_not_there_is_named(domain):
    missing = f"CN=nobody,{domain.servers}"
    told = domain.stockade("alpha", "rsop", "--domain", "lab.test", "--computer", missing, good=False)
    assert "nobody" in told
    assert "Traceback" not in told
