"""The closed list of reasons: every refusal, failure and event of the product is a member of `ReasonCode`.

A row says whose fault it is (`_caller`, `_peer`, `_host`; the error class follows from that), what it means,
what to do, and the Windows error code for the same thing, where there is one (ERROR_IPSEC_IKE_*, 13800–13897,
and the policy-store errors 13000–13025 of [MS-ERREF]). Its word in logs, events and the local API is the
member's name with hyphens: `PSK_MISMATCH` is `psk-mismatch`. `make reference` writes `docs/reasons.md`.
"""

from enum import Enum, StrEnum, unique

_Row = tuple["Fault", str, str, int | None]


class Fault(StrEnum):
    """Who can put it right."""

    CALLER = "caller"
    PEER = "peer"
    HOST = "host"


def _caller(meaning: str, remedy: str, windows_code: int | None = None) -> _Row:
    return Fault.CALLER, meaning, remedy, windows_code


def _peer(meaning: str, remedy: str, windows_code: int | None = None) -> _Row:
    return Fault.PEER, meaning, remedy, windows_code


def _host(meaning: str, remedy: str, windows_code: int | None = None) -> _Row:
    return Fault.HOST, meaning, remedy, windows_code


@unique
class ReasonCode(Enum):
    """The closed list."""

    # -- the command language and the policy
    SYNTAX = _caller("the command cannot be read", "correct the named word; nothing was applied")
    NOT_AVAILABLE = _caller("this version cannot do that yet", "see docs/netsh.md for what it can")
    UNKNOWN_NAME = _caller(
        "no object has this name",
        "take a name that there is: the show or list command of its kind prints them",
    )
    NAME_EXISTS = _caller("an object of this kind has the name already", "choose another name or use set")
    IN_USE = _caller("the object is in use", "delete or change what uses it first")
    INVALID_POLICY = _caller("the policy contradicts itself", "correct the named setting", 13861)
    INVALID_FILTER = _caller("the filter cannot be enforced", "correct the named filter", 13858)
    NOT_ASSIGNED = _caller(
        "it is not clear which policy is meant",
        "assign one: netsh ipsec static set policy name=… assign=yes; stockade init writes a first one",
    )
    NOT_SECURABLE = _caller(
        "multicast and broadcast cannot be secured", "permit or block this traffic instead", 13858
    )
    NO_POLICY = _caller(
        "no rule covers this traffic or peer", "add a rule whose filters match, or see explain", 13825
    )
    DRIVER_LACKS = _caller("the chosen data plane cannot express this", "change the rule or the data plane")
    STORE_UNREADABLE = _host(
        "the policy store cannot be read", "the last good policy stays in force; repair or restore the file"
    )
    STORE_BUSY = _host(
        "another program holds the policy store", "wait for it to finish and repeat the command"
    )
    # -- Active Directory
    DIRECTORY_UNREACHABLE = _host(
        "no domain controller answers",
        "see DNS, the network and the controllers; the last good policy of the domain stays in force",
    )
    DIRECTORY_REFUSED = _host(
        "the domain controller refuses us, or the connection would not be protected",
        "see the keytab, the certificates and who may read or write the objects in the directory",
    )
    DIRECTORY_UNREADABLE = _host(
        "what the directory holds cannot be put in force",
        "correct the named object there (stockade rsop shows the chain); the last good policy stays in force",
    )
    DIRECTORY_READ = _host("the directory was read", "none")
    # -- files and stores of other makers
    FILE_UNUSABLE = _caller(
        "a file cannot be read or written",
        "see that the name is right, the permissions of the file and its folder, and the space on its disk",
    )
    INVALID_FILE = _caller(
        "the file is damaged, or not what it claims to be",
        "export it again where it came from; nothing damaged is taken over",
    )
    MISSING_OBJECT = _caller(
        "an object refers to one that is not there",
        "export it again with all its objects, or correct the reference",
    )
    NOT_EXPRESSIBLE = _caller(
        "the other form has no way to say this", "change the named object, or keep to the form that can"
    )
    TAKEN_OVER = _caller("an import took something over in another form", "read the named object once")
    NOT_RECORDED = _caller(
        "this was not recorded", "switch the recording on, repeat what failed, and ask again"
    )
    # -- bytes from the network
    MALFORMED_HEADER = _peer(
        "the ISAKMP header is not valid", "see who sends to UDP 500/4500; nothing to change here", 13824
    )
    MALFORMED_PAYLOAD = _peer("a payload is not valid", "see who sends it; check the peer's version", 13843)
    UNSUPPORTED_EXCHANGE = _peer(
        "this exchange type or version is not supported", "configure the peer for IKEv1 main mode", 13824
    )
    UNKNOWN_COOKIE = _peer(
        "the message belongs to no main mode that we know", "none: the peer negotiates anew", 13846
    )
    UNEXPECTED_MESSAGE = _peer(
        "the message does not fit the state of the exchange",
        "none, unless it repeats: then capture the exchange",
        13888,
    )
    DECRYPTION_FAILED = _peer(
        "an encrypted message made no sense after decryption",
        "compare the pre-shared keys of both ends",
        13867,
    )
    TOO_MANY_NEGOTIATIONS = _peer(
        "the peer has too many open negotiations",
        "none: further first messages are dropped until one ends",
        13882,
    )
    # -- the key exchange
    NO_PROPOSAL_CHOSEN = _peer(
        "no offer fits our policy", "make one security method equal on both ends", 13868
    )
    PEER_REFUSED = _peer("the peer answered with an error", "see the peer's log at this time", 13801)
    AUTHENTICATION_FAILED = _peer(
        "the peer could not prove who it is", "compare the credentials of both ends", 13801
    )
    PSK_MISMATCH = _peer(
        "the pre-shared keys of the two ends most likely differ", "set the same psk= on both ends", 13801
    )
    AUTHENTICATION_METHOD_UNAVAILABLE = _caller(
        "none of the rule's authentication methods can be used here",
        "add a method that both ends have",
        13801,
    )
    NO_CERTIFICATE = _caller(
        "this host has no certificate that the rule can use",
        "import one with its private key: stockade cert import",
        13806,
    )
    ACCESS_DENIED = _caller(
        "the peer has proved who it is, and may not connect",
        "see stockade access list; allow the computer, its group, authority or domain there",
        13801,
    )
    KERBEROS_UNAVAILABLE = _host(
        "this host cannot use Kerberos",
        "give it a keytab that it can read, with its host principal, and install stockade[kerberos]",
        13827,
    )
    KERBEROS_CLOCK_SKEW = _host(
        "the clocks differ by more than Kerberos allows",
        "set the clocks of both hosts and of the domain controller by the same time server",
        13827,
    )
    KERBEROS_NO_TICKET = _host(
        "the domain controller gives no ticket for the peer",
        "see that both hosts' accounts exist in realms that trust each other, and that the keytab is current",
        13827,
    )
    KERBEROS_UNREACHABLE = _host(
        "no domain controller answers",
        "see the network, DNS and krb5.conf; traffic to domain controllers must be permitted in clear",
        13827,
    )
    KERBEROS_EXPIRED = _host(
        "the account, its password or the ticket has expired",
        "renew the host's account and write a new keytab",
        13827,
    )
    KERBEROS_REFUSED = _peer(
        "the peer's Kerberos token is not acceptable",
        "compare the keytab with the account (key version), the principal names and the clocks",
        13827,
    )
    NO_PEER_CERTIFICATE = _peer(
        "the peer sent no certificate",
        "give the peer a certificate under the root that the rule names",
        13847,
    )
    CERTIFICATE_INVALID = _peer(
        "a certificate cannot be read, or its signature is wrong", "issue the certificate again", 13835
    )
    CERTIFICATE_KEY = _peer(
        "the key in a certificate is too short or of a kind that IKE cannot use",
        "issue a certificate with an RSA key of 1024 bits or more, or ECDSA on P-256, P-384 or P-521",
        13881,
    )
    CERTIFICATE_EXPIRED = _peer(
        "a certificate is not valid at this time", "renew the certificate, or correct the clock", 13801
    )
    CERTIFICATE_USAGE = _peer(
        "a certificate may not be used for this",
        "issue one with the key usage digital signature (authorities: certificate signing)",
        13818,
    )
    CERTIFICATE_REVOKED = _peer(
        "a certificate is revoked, or must be checked and cannot be",
        "issue a new certificate, or bring the revocation list up to date",
        13848,
    )
    CERTIFICATE_UNTRUSTED = _peer(
        "no chain leads from the certificate to the root that the rule names",
        "import the root as trusted, and issue the certificate under it",
        13887,
    )
    INVALID_SIGNATURE = _peer(
        "a signature does not verify",
        "see whether the peer's certificate and its private key belong together",
        13826,
    )
    INVALID_HASH = _peer("a HASH payload does not verify", "compare the credentials of both ends", 13870)
    INVALID_KEY_EXCHANGE = _peer(
        "the public Diffie-Hellman value is not acceptable",
        "see the peer's version; never weaken this check",
        13833,
    )
    INVALID_IDENTITY = _peer(
        "the identity or the traffic that the peer names does not fit our policy",
        "compare the filters of both ends",
        13834,
    )
    MAIN_MODE_DOES_NOT_FIT = _peer(
        "the main mode was not negotiated as the rule for this traffic asks",
        "give the rules for one peer the same authentication and main-mode settings",
        13894,
    )
    NAT_NOT_ALLOWED = _peer(
        "the end that answers is behind a NAT, and the settings do not allow that",
        "give it an address of its own, or set assumeudpencapsulationcontextonsendrule to 1 at both ends, "
        "to 2 where both are behind NATs",
    )
    NEGOTIATION_TIMED_OUT = _peer(
        "the peer did not answer", "check that the peer runs IPsec and that UDP 500 and 4500 reach it", 13805
    )
    NO_SPI = _host("no SPI could be allocated", "see the data plane's health with stockade status", 13857)
    # -- the life of an SA
    SA_ESTABLISHED = _peer("an SA came up", "none")
    SA_ADOPTED = _host("the SA outlived an earlier agent and goes on", "none: a new main mode replaces it")
    SA_NOT_ADOPTED = _host(
        "an SA of an earlier agent cannot be accounted for and was ended",
        "none: traffic negotiates anew; if it is not to, see why the policy no longer has it",
    )
    SA_DELETED = _peer("the peer deleted the SA", "none: traffic negotiates anew", 13807)
    SA_EXPIRED = _host("the SA reached its lifetime", "none: traffic negotiates anew", 13895)
    SA_IDLE = _host("the SA was not used for the idle time", "none: traffic negotiates anew", 13808)
    PEER_DEAD = _peer(
        "the peer no longer answers",
        "none: traffic negotiates anew; see whether the peer and the path are up",
        13813,
    )
    PEER_UNREACHABLE = _peer(
        "the network says that a packet to the peer did not arrive",
        "none: nothing is torn down, the peer is asked; see routes, firewalls and the peer if it lasts",
    )
    PEER_LOST_STATE = _peer(
        "the peer has proved that it restarted, or took over an address, and has no SA with us",
        "none: what was secured is negotiated anew",
    )
    SA_REPLACED = _host("a newer SA took its place", "none", 13878)
    MAIN_MODE_EXPIRED = _host("the main mode reached its lifetime", "none: traffic negotiates anew", 13885)
    INITIAL_CONTACT = _peer(
        "the peer says that it has no older SA with us", "none: older SAs were removed", 13886
    )
    SOFT_FALLBACK = _peer(
        "the peer is spoken with in clear, as the rule allows (soft)",
        "give the peer IPsec and a matching policy, or take “soft” from the filter action",
    )
    SOFT_ENDED = _host("clear traffic with the peer ended", "none: the next packet negotiates again")
    POLICY_CHANGED = _host("the policy no longer allows this SA", "none: traffic negotiates anew", 13849)
    POLICY_LOADED = _host("a policy is in force", "none")
    POLICY_DOUBTFUL = _caller(
        "the policy has something that is probably not meant",
        "read the named rules; stockade explain shows what happens to a packet",
    )
    NAME_RESOLVED = _host("the addresses of a DNS name are known", "none")
    NAME_NOT_RESOLVED = _host(
        "a DNS name in a filter could not be resolved",
        "see the resolver of this host, and that its DNS traffic is permitted",
    )
    AGENT_STARTED = _host("the agent runs", "none")
    KEYS_EXPORTED = _host(
        "keys of SAs were given out, to decrypt a capture with",
        "none, if that was you; whoever has them reads what these SAs carried: let them be negotiated anew",
    )
    SHUTTING_DOWN = _host("the agent is stopping", "none", 13891)
    # -- the web console
    WEB_ACTION = _host("somebody signed in or did something in the web console", "none")
    WEB_REQUEST_REFUSED = _caller(
        "the web console refused a request",
        "open the console by the name and address that web.toml says, from its own pages",
    )
    WEB_LOGIN_REFUSED = _caller(
        "nobody may sign in to the web console like that",
        "check name and password, wait where there were too many tries; or `stockade web link` on the host",
    )
    WEB_CONSOLE_ENDED = _host(
        "the web console's process failed; the agent starts it again",
        "see what it said: web.toml, its certificate and key, the accounts",
    )
    WEB_CONSOLE_LEFT = _host(
        "nobody used the web console for a while, and its process ended", "none: the next visitor starts it"
    )
    # -- clusters
    CLUSTER_MEMBER = _host(
        "a node of the cluster has come, or has fallen silent",
        "where a node is silent: see whether it runs, and whether UDP between the nodes passes",
    )
    CLUSTER_ADDRESS = _host("a virtual address of the cluster has come to this node, or has left it", "none")
    CLUSTER_PEER = _host(
        "a peer has come that another node of the cluster serves",
        "none: the hook of [cluster] may tell the balancer, see docs/cluster.md",
    )
    CLUSTER_HOOK_FAILED = _host(
        "the hook of [cluster] failed or did not end", "run the named command by hand; it has ten seconds"
    )
    # -- packets
    PERMITTED = _host("a filter permits it", "none")
    BLOCKED = _host("a filter blocks it", "change the rule if this traffic should pass")
    SECURED = _host("a filter secures it", "none")
    NO_FILTER = _host("no filter speaks of it, so it passes in clear", "add a rule if it should not")
    CLEAR_DROPPED = _peer(
        "a clear packet came where a filter requires security",
        "give the sender an IPsec policy, or permit this traffic",
    )
    UNKNOWN_SPI = _peer(
        "an IPsec packet names an SA that we do not have",
        "none: a new SA is negotiated with peers that we know",
    )
    INTEGRITY_FAILED = _peer("a packet's integrity check failed", "look for a damaged path or a forger")
    REPLAYED = _peer("a packet came twice or too late", "raise the replay window if the path reorders much")
    PATH_REPORT_IGNORED = _peer(
        "an ICMP message says that a secured packet was too long, and quotes none that we sent lately",
        "none: it changes nothing; look for a forger if there are many",
    )
    SELECTOR_MISMATCH = _peer(
        "a secured packet carries traffic that its SA was not made for", "compare the filters of both ends"
    )
    MALFORMED_PACKET = _peer("an IP or IPsec packet is not valid", "look at the sender; none is forwarded")
    QUEUE_FULL = _host(
        "too many packets wait for a negotiation",
        "none: senders repeat; see why the negotiation takes long",
        13809,
    )
    RECEIVE_OVERFLOW = _host(
        "sealed packets came faster than the data plane took them",
        "none if it was a flood; else give the host a kernel with ESP, or less to do",
    )
    # -- the host
    NOT_PRIVILEGED = _host(
        "the system refuses this to an ordinary user",
        "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW",
        13851,
    )
    SYSTEM_REFUSED = _host(
        "the system refuses what the command needs",
        "see the named file, its permissions and the space on its disk",
    )
    SEND_FAILED = _host(
        "an IKE datagram could not be sent",
        "check routes and addresses towards the peer; it is repeated meanwhile",
    )
    MISSING_PROGRAM = _host("a program that is needed is not installed", "install the named package")
    PORT_TAKEN = _host(
        "another program holds the port, or this host has not the address",
        "UDP 500 and 4500: stop the other IKE daemon on this host; the web console's: an agent serves it "
        "there unless agent.toml says [web] serve = false, or set another port in web.toml",
    )
    STATE_UNUSABLE = _host(
        "the agent's own state file cannot be used",
        "see the disk and the permissions; the agent runs without it, but a restart reconnects more slowly",
    )
    INVALID_SETTING = _caller(
        "the agent's settings file is not valid", "correct the named key; nothing was changed"
    )
    NOT_SET_UP = _caller(
        "this host is not set up for that",
        "write the named table of agent.toml and start the agent anew; the manual has a page about it",
    )
    AGENT_RUNNING = _caller("an agent runs already with this home", "stop it first, or use another --home")
    AGENT_NOT_RUNNING = _caller("no agent answers", "start it with stockade agent run")
    DRIVER_FAILED = _host("the data plane failed", "see the journal; filters stay in force meanwhile")
    INTERNAL = _host(
        "a fault of Stockade itself",
        "report it with the journal entry, or for a command with what STOCKADE_DEBUG=1 shows",
        13816,
    )

    def __init__(self, fault: Fault, meaning: str, remedy: str, windows_code: int | None) -> None:
        self.word = self.name.lower().replace("_", "-")
        self.fault = fault
        self.windows_code = windows_code
        self.meaning = meaning
        self.remedy = remedy
