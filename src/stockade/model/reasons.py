"""Why: the closed list of reasons, and the three errors that carry them.

Every refusal and failure in the product is a `Reason`: a member of `ReasonCode` with facts. Logs, events,
the local API, `explain` and the reference page use this list. Where Windows has an error code for the same
thing the member carries it (ERROR_IPSEC_IKE_*, 13800–13897, and the policy-store errors 13000–13025 of
[MS-ERREF]).

A member says whose fault it is: the caller's (a bad command or policy), the peer's (bytes or behaviour), or
the host's (the system refuses us something). The error class follows from that: `error_for(reason)` makes it.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Self

from stockade.model.quickly_made import quickly_made


class Fault(StrEnum):
    """Who can put it right."""

    CALLER = "caller"
    PEER = "peer"
    HOST = "host"


class ReasonCode(Enum):
    """The closed list. Value: (code word, fault, Windows error code or None, what it means, what to do)."""

    # -- the command language and the policy
    SYNTAX = (
        "syntax",
        Fault.CALLER,
        None,
        "the command cannot be read",
        "correct the named word; nothing was applied",
    )
    NOT_AVAILABLE = (
        "not-available",
        Fault.CALLER,
        None,
        "this version cannot do that yet",
        "see docs/netsh.md for what it can",
    )
    UNKNOWN_NAME = (
        "unknown-name",
        Fault.CALLER,
        None,
        "no object has this name",
        "list the names with show … all",
    )
    NAME_EXISTS = (
        "name-exists",
        Fault.CALLER,
        None,
        "an object of this kind has the name already",
        "choose another name or use set",
    )
    IN_USE = ("in-use", Fault.CALLER, None, "the object is in use", "delete or change what uses it first")
    INVALID_POLICY = (
        "invalid-policy",
        Fault.CALLER,
        13861,
        "the policy contradicts itself",
        "correct the named setting",
    )
    INVALID_FILTER = (
        "invalid-filter",
        Fault.CALLER,
        13858,
        "the filter cannot be enforced",
        "correct the named filter",
    )
    NOT_SECURABLE = (
        "not-securable",
        Fault.CALLER,
        13858,
        "multicast and broadcast cannot be secured",
        "permit or block this traffic instead",
    )
    NO_POLICY = (
        "no-policy",
        Fault.CALLER,
        13825,
        "no rule covers this traffic or peer",
        "add a rule whose filters match, or see explain",
    )
    DRIVER_LACKS = (
        "driver-lacks",
        Fault.CALLER,
        None,
        "the chosen data plane cannot express this",
        "change the rule or the data plane",
    )
    STORE_UNREADABLE = (
        "store-unreadable",
        Fault.HOST,
        None,
        "the policy store cannot be read",
        "the last good policy stays in force; repair or restore the file",
    )
    STORE_BUSY = (
        "store-busy",
        Fault.HOST,
        None,
        "another program holds the policy store",
        "wait for it to finish and repeat the command",
    )
    # -- Active Directory
    DIRECTORY_UNREACHABLE = (
        "directory-unreachable",
        Fault.HOST,
        None,
        "no domain controller answers",
        "see DNS, the network and the controllers; the last good policy of the domain stays in force",
    )
    DIRECTORY_REFUSED = (
        "directory-refused",
        Fault.HOST,
        None,
        "the domain controller refuses us, or the connection would not be protected",
        "see the keytab, the certificates and who may read or write the objects in the directory",
    )
    DIRECTORY_UNREADABLE = (
        "directory-unreadable",
        Fault.HOST,
        None,
        "what the directory holds cannot be put in force",
        "correct the named object there (stockade rsop shows the chain); the last good policy stays in force",
    )
    DIRECTORY_READ = (
        "directory-read",
        Fault.HOST,
        None,
        "the directory was read",
        "none",
    )
    # -- files and stores of other makers
    INVALID_FILE = (
        "invalid-file",
        Fault.CALLER,
        None,
        "the file is damaged, or not what it claims to be",
        "export it again where it came from; nothing damaged is taken over",
    )
    MISSING_OBJECT = (
        "missing-object",
        Fault.CALLER,
        None,
        "an object refers to one that is not there",
        "export it again with all its objects, or correct the reference",
    )
    NOT_EXPRESSIBLE = (
        "not-expressible",
        Fault.CALLER,
        None,
        "the other form has no way to say this",
        "change the named object, or keep to the form that can",
    )
    TAKEN_OVER = (
        "taken-over",
        Fault.CALLER,
        None,
        "an import took something over in another form",
        "read the named object once",
    )
    # -- bytes from the network
    MALFORMED_HEADER = (
        "malformed-header",
        Fault.PEER,
        13824,
        "the ISAKMP header is not valid",
        "see who sends to UDP 500/4500; nothing to change here",
    )
    MALFORMED_PAYLOAD = (
        "malformed-payload",
        Fault.PEER,
        13843,
        "a payload is not valid",
        "see who sends it; check the peer's version",
    )
    UNSUPPORTED_EXCHANGE = (
        "unsupported-exchange",
        Fault.PEER,
        13824,
        "this exchange type or version is not supported",
        "configure the peer for IKEv1 main mode",
    )
    UNKNOWN_COOKIE = (
        "unknown-cookie",
        Fault.PEER,
        13846,
        "the message belongs to no main mode that we know",
        "none: the peer negotiates anew",
    )
    UNEXPECTED_MESSAGE = (
        "unexpected-message",
        Fault.PEER,
        13888,
        "the message does not fit the state of the exchange",
        "none, unless it repeats: then capture the exchange",
    )
    DECRYPTION_FAILED = (
        "decryption-failed",
        Fault.PEER,
        13867,
        "an encrypted message made no sense after decryption",
        "compare the pre-shared keys of both ends",
    )
    TOO_MANY_NEGOTIATIONS = (
        "too-many-negotiations",
        Fault.PEER,
        13882,
        "the peer has too many open negotiations",
        "none: further first messages are dropped until one ends",
    )
    # -- the key exchange
    NO_PROPOSAL_CHOSEN = (
        "no-proposal-chosen",
        Fault.PEER,
        13868,
        "no offer fits our policy",
        "make one security method equal on both ends",
    )
    PEER_REFUSED = (
        "peer-refused",
        Fault.PEER,
        13801,
        "the peer answered with an error",
        "see the peer's log at this time",
    )
    AUTHENTICATION_FAILED = (
        "authentication-failed",
        Fault.PEER,
        13801,
        "the peer could not prove who it is",
        "compare the credentials of both ends",
    )
    PSK_MISMATCH = (
        "psk-mismatch",
        Fault.PEER,
        13801,
        "the pre-shared keys of the two ends most likely differ",
        "set the same psk= on both ends",
    )
    AUTHENTICATION_METHOD_UNAVAILABLE = (
        "authentication-method-unavailable",
        Fault.CALLER,
        13801,
        "none of the rule's authentication methods can be used here",
        "add a method that both ends have",
    )
    NO_CERTIFICATE = (
        "no-certificate",
        Fault.CALLER,
        13806,
        "this host has no certificate that the rule can use",
        "import one with its private key: stockade cert import",
    )
    ACCESS_DENIED = (
        "access-denied",
        Fault.CALLER,
        13801,
        "the peer has proved who it is, and may not connect",
        "see stockade access list; allow the computer, its group, authority or domain there",
    )
    KERBEROS_UNAVAILABLE = (
        "kerberos-unavailable",
        Fault.HOST,
        13827,
        "this host cannot use Kerberos",
        "give it a keytab that it can read, with its host principal, and install stockade[kerberos]",
    )
    KERBEROS_CLOCK_SKEW = (
        "kerberos-clock-skew",
        Fault.HOST,
        13827,
        "the clocks differ by more than Kerberos allows",
        "set the clocks of both hosts and of the domain controller by the same time server",
    )
    KERBEROS_NO_TICKET = (
        "kerberos-no-ticket",
        Fault.HOST,
        13827,
        "the domain controller gives no ticket for the peer",
        "see that both hosts' accounts exist in realms that trust each other, and that the keytab is current",
    )
    KERBEROS_UNREACHABLE = (
        "kerberos-unreachable",
        Fault.HOST,
        13827,
        "no domain controller answers",
        "see the network, DNS and krb5.conf; traffic to domain controllers must be permitted in clear",
    )
    KERBEROS_EXPIRED = (
        "kerberos-expired",
        Fault.HOST,
        13827,
        "the account, its password or the ticket has expired",
        "renew the host's account and write a new keytab",
    )
    KERBEROS_REFUSED = (
        "kerberos-refused",
        Fault.PEER,
        13827,
        "the peer's Kerberos token is not acceptable",
        "compare the keytab with the account (key version), the principal names and the clocks",
    )
    NO_PEER_CERTIFICATE = (
        "no-peer-certificate",
        Fault.PEER,
        13847,
        "the peer sent no certificate",
        "give the peer a certificate under the root that the rule names",
    )
    CERTIFICATE_INVALID = (
        "certificate-invalid",
        Fault.PEER,
        13835,
        "a certificate cannot be read, or its signature is wrong",
        "issue the certificate again",
    )
    CERTIFICATE_KEY = (
        "certificate-key",
        Fault.PEER,
        13881,
        "the key in a certificate is too short or of a kind that IKE cannot use",
        "issue a certificate with an RSA key of 1024 bits or more, or ECDSA on P-256, P-384 or P-521",
    )
    CERTIFICATE_EXPIRED = (
        "certificate-expired",
        Fault.PEER,
        13801,
        "a certificate is not valid at this time",
        "renew the certificate, or correct the clock",
    )
    CERTIFICATE_USAGE = (
        "certificate-usage",
        Fault.PEER,
        13818,
        "a certificate may not be used for this",
        "issue one with the key usage digital signature (authorities: certificate signing)",
    )
    CERTIFICATE_REVOKED = (
        "certificate-revoked",
        Fault.PEER,
        13848,
        "a certificate is revoked, or must be checked and cannot be",
        "issue a new certificate, or bring the revocation list up to date",
    )
    CERTIFICATE_UNTRUSTED = (
        "certificate-untrusted",
        Fault.PEER,
        13887,
        "no chain leads from the certificate to the root that the rule names",
        "import the root as trusted, and issue the certificate under it",
    )
    INVALID_SIGNATURE = (
        "invalid-signature",
        Fault.PEER,
        13826,
        "a signature does not verify",
        "see whether the peer's certificate and its private key belong together",
    )
    INVALID_HASH = (
        "invalid-hash",
        Fault.PEER,
        13870,
        "a HASH payload does not verify",
        "compare the credentials of both ends",
    )
    INVALID_KEY_EXCHANGE = (
        "invalid-key-exchange",
        Fault.PEER,
        13833,
        "the public Diffie-Hellman value is not acceptable",
        "see the peer's version; never weaken this check",
    )
    INVALID_IDENTITY = (
        "invalid-identity",
        Fault.PEER,
        13834,
        "the identity or the traffic that the peer names does not fit our policy",
        "compare the filters of both ends",
    )
    MAIN_MODE_DOES_NOT_FIT = (
        "main-mode-does-not-fit",
        Fault.PEER,
        13894,
        "the main mode was not negotiated as the rule for this traffic asks",
        "give the rules for one peer the same authentication and main-mode settings",
    )
    NAT_NOT_ALLOWED = (
        "nat-not-allowed",
        Fault.PEER,
        None,
        "the end that answers is behind a NAT, and the settings do not allow that",
        "give it an address of its own, or set assumeudpencapsulationcontextonsendrule to 1 at both ends, to 2 "
        "where both are behind NATs",
    )
    NEGOTIATION_TIMED_OUT = (
        "negotiation-timed-out",
        Fault.PEER,
        13805,
        "the peer did not answer",
        "check that the peer runs IPsec and that UDP 500 and 4500 reach it",
    )
    NO_SPI = (
        "no-spi",
        Fault.HOST,
        13857,
        "no SPI could be allocated",
        "see the data plane's health with stockade status",
    )
    # -- the life of an SA
    SA_ESTABLISHED = ("sa-established", Fault.PEER, None, "an SA came up", "none")
    SA_ADOPTED = (
        "sa-adopted",
        Fault.HOST,
        None,
        "the SA outlived an earlier agent and goes on",
        "none: a new main mode replaces it",
    )
    SA_NOT_ADOPTED = (
        "sa-not-adopted",
        Fault.HOST,
        None,
        "an SA of an earlier agent cannot be accounted for and was ended",
        "none: traffic negotiates anew; if it is not to, see why the policy no longer has it",
    )
    SA_DELETED = ("sa-deleted", Fault.PEER, 13807, "the peer deleted the SA", "none: traffic negotiates anew")
    SA_EXPIRED = (
        "sa-expired",
        Fault.HOST,
        13895,
        "the SA reached its lifetime",
        "none: traffic negotiates anew",
    )
    SA_IDLE = (
        "sa-idle",
        Fault.HOST,
        13808,
        "the SA was not used for the idle time",
        "none: traffic negotiates anew",
    )
    PEER_DEAD = (
        "peer-dead",
        Fault.PEER,
        13813,
        "the peer no longer answers",
        "none: traffic negotiates anew; see whether the peer and the path are up",
    )
    PEER_UNREACHABLE = (
        "peer-unreachable",
        Fault.PEER,
        None,
        "the network says that a packet to the peer did not arrive",
        "none: nothing is torn down for it, the peer is asked; see routes, firewalls and the peer if it lasts",
    )
    PEER_LOST_STATE = (
        "peer-lost-state",
        Fault.PEER,
        None,
        "the peer has proved that it restarted, or took over an address, and has no SA with us",
        "none: what was secured is negotiated anew",
    )
    SA_REPLACED = ("sa-replaced", Fault.HOST, 13878, "a newer SA took its place", "none")
    MAIN_MODE_EXPIRED = (
        "main-mode-expired",
        Fault.HOST,
        13885,
        "the main mode reached its lifetime",
        "none: traffic negotiates anew",
    )
    INITIAL_CONTACT = (
        "initial-contact",
        Fault.PEER,
        13886,
        "the peer says that it has no older SA with us",
        "none: older SAs were removed",
    )
    SOFT_FALLBACK = (
        "soft-fallback",
        Fault.PEER,
        None,
        "the peer is spoken with in clear, as the rule allows (soft)",
        "give the peer IPsec and a matching policy, or take “soft” from the filter action",
    )
    SOFT_ENDED = (
        "soft-ended",
        Fault.HOST,
        None,
        "clear traffic with the peer ended",
        "none: the next packet negotiates again",
    )
    POLICY_CHANGED = (
        "policy-changed",
        Fault.HOST,
        13849,
        "the policy no longer allows this SA",
        "none: traffic negotiates anew",
    )
    POLICY_LOADED = ("policy-loaded", Fault.HOST, None, "a policy is in force", "none")
    POLICY_DOUBTFUL = (
        "policy-doubtful",
        Fault.CALLER,
        None,
        "the policy has something that is probably not meant",
        "read the named rules; stockade explain shows what happens to a packet",
    )
    NAME_RESOLVED = ("name-resolved", Fault.HOST, None, "the addresses of a DNS name are known", "none")
    NAME_NOT_RESOLVED = (
        "name-not-resolved",
        Fault.HOST,
        None,
        "a DNS name in a filter could not be resolved",
        "see the resolver of this host, and that its DNS traffic is permitted",
    )
    AGENT_STARTED = ("agent-started", Fault.HOST, None, "the agent runs", "none")
    KEYS_EXPORTED = (
        "keys-exported",
        Fault.HOST,
        None,
        "keys of SAs were given out, to decrypt a capture with",
        "none, if that was you; whoever has them reads what these SAs carried: let them be negotiated anew",
    )
    SHUTTING_DOWN = ("shutting-down", Fault.HOST, 13891, "the agent is stopping", "none")
    # -- the web console
    WEB_ACTION = (
        "web-action",
        Fault.HOST,
        None,
        "somebody signed in or did something in the web console",
        "none",
    )
    WEB_REQUEST_REFUSED = (
        "web-request-refused",
        Fault.CALLER,
        None,
        "the web console refused a request",
        "open the console by the name and address that web.toml says, from its own pages",
    )
    WEB_LOGIN_REFUSED = (
        "web-login-refused",
        Fault.CALLER,
        None,
        "nobody may sign in to the web console like that",
        "check name and password, wait where there were too many tries; or `stockade web link` on the host",
    )
    WEB_CONSOLE_ENDED = (
        "web-console-ended",
        Fault.HOST,
        None,
        "the web console's process failed; the agent starts it again",
        "see what it said: web.toml, its certificate and key, the accounts",
    )
    WEB_CONSOLE_LEFT = (
        "web-console-left",
        Fault.HOST,
        None,
        "nobody used the web console for a while, and its process ended",
        "none: the next visitor starts it",
    )
    # -- clusters
    CLUSTER_MEMBER = (
        "cluster-member",
        Fault.HOST,
        None,
        "a node of the cluster has come, or has fallen silent",
        "where a node is silent: see whether it runs, and whether UDP between the nodes passes",
    )
    CLUSTER_ADDRESS = (
        "cluster-address",
        Fault.HOST,
        None,
        "a virtual address of the cluster has come to this node, or has left it",
        "none",
    )
    CLUSTER_PEER = (
        "cluster-peer",
        Fault.HOST,
        None,
        "a peer has come that another node of the cluster serves",
        "none: the hook of [cluster] may tell the balancer, see docs/cluster.md",
    )
    CLUSTER_HOOK_FAILED = (
        "cluster-hook-failed",
        Fault.HOST,
        None,
        "the hook of [cluster] failed or did not end",
        "run the named command by hand; it has ten seconds",
    )
    # -- packets
    PERMITTED = ("permitted", Fault.HOST, None, "a filter permits it", "none")
    BLOCKED = (
        "blocked",
        Fault.HOST,
        None,
        "a filter blocks it",
        "change the rule if this traffic should pass",
    )
    SECURED = ("secured", Fault.HOST, None, "a filter secures it", "none")
    NO_FILTER = (
        "no-filter",
        Fault.HOST,
        None,
        "no filter speaks of it, so it passes in clear",
        "add a rule if it should not",
    )
    CLEAR_DROPPED = (
        "clear-dropped",
        Fault.PEER,
        None,
        "a clear packet came where a filter requires security",
        "give the sender an IPsec policy, or permit this traffic",
    )
    UNKNOWN_SPI = (
        "unknown-spi",
        Fault.PEER,
        None,
        "an IPsec packet names an SA that we do not have",
        "none: a new SA is negotiated with peers that we know",
    )
    INTEGRITY_FAILED = (
        "integrity-failed",
        Fault.PEER,
        None,
        "a packet's integrity check failed",
        "look for a damaged path or a forger",
    )
    REPLAYED = (
        "replayed",
        Fault.PEER,
        None,
        "a packet came twice or too late",
        "raise the replay window if the path reorders much",
    )
    PATH_REPORT_IGNORED = (
        "path-report-ignored",
        Fault.PEER,
        None,
        "an ICMP message says that a secured packet was too long, and quotes none that we sent lately",
        "none: it changes nothing; look for a forger if there are many",
    )
    SELECTOR_MISMATCH = (
        "selector-mismatch",
        Fault.PEER,
        None,
        "a secured packet carries traffic that its SA was not made for",
        "compare the filters of both ends",
    )
    MALFORMED_PACKET = (
        "malformed-packet",
        Fault.PEER,
        None,
        "an IP or IPsec packet is not valid",
        "look at the sender; none is forwarded",
    )
    QUEUE_FULL = (
        "queue-full",
        Fault.HOST,
        13809,
        "too many packets wait for a negotiation",
        "none: senders repeat; see why the negotiation takes long",
    )
    RECEIVE_OVERFLOW = (
        "receive-overflow",
        Fault.HOST,
        None,
        "sealed packets came faster than the data plane took them",
        "none if it was a flood; else give the host a kernel with ESP, or less to do",
    )
    # -- the host
    NOT_PRIVILEGED = (
        "not-privileged",
        Fault.HOST,
        13851,
        "the system refuses this to an ordinary user",
        "run as root, or with CAP_NET_ADMIN and CAP_NET_RAW",
    )
    SYSTEM_REFUSED = (
        "system-refused",
        Fault.HOST,
        None,
        "the system refuses what the command needs",
        "see the named file, its permissions and the space on its disk",
    )
    SEND_FAILED = (
        "send-failed",
        Fault.HOST,
        None,
        "an IKE datagram could not be sent",
        "check routes and addresses towards the peer; it is repeated meanwhile",
    )
    MISSING_PROGRAM = (
        "missing-program",
        Fault.HOST,
        None,
        "a program that is needed is not installed",
        "install the named package",
    )
    PORT_TAKEN = (
        "port-taken",
        Fault.HOST,
        None,
        "another program holds the port, or this host has not the address",
        "UDP 500 and 4500: stop the other IKE daemon on this host; the web console's: an agent serves it there "
        "unless agent.toml says [web] serve = false, or set another port in web.toml",
    )
    STATE_UNUSABLE = (
        "state-unusable",
        Fault.HOST,
        None,
        "the agent's own state file cannot be used",
        "see the disk and the permissions; the agent runs without it, but a restart reconnects more slowly",
    )
    INVALID_SETTING = (
        "invalid-setting",
        Fault.CALLER,
        None,
        "the agent's settings file is not valid",
        "correct the named key; nothing was changed",
    )
    AGENT_RUNNING = (
        "agent-running",
        Fault.CALLER,
        None,
        "an agent runs already with this home",
        "stop it first, or use another --home",
    )
    AGENT_NOT_RUNNING = (
        "agent-not-running",
        Fault.CALLER,
        None,
        "no agent answers",
        "start it with stockade agent run",
    )
    DRIVER_FAILED = (
        "driver-failed",
        Fault.HOST,
        None,
        "the data plane failed",
        "see the journal; filters stay in force meanwhile",
    )
    INTERNAL = (
        "internal",
        Fault.HOST,
        13816,
        "a fault of Stockade itself",
        "report it with the journal entry, or for a command with what STOCKADE_DEBUG=1 shows",
    )

    def __init__(self, word: str, fault: Fault, windows_code: int | None, meaning: str, remedy: str) -> None:
        self.word = word
        self.fault = fault
        self.windows_code = windows_code
        self.meaning = meaning
        self.remedy = remedy


@quickly_made
@dataclass(frozen=True, slots=True)
class Reason:
    """One refusal or failure: the code, what exactly happened, and facts (names and values as text, no
    secrets)."""

    code: ReasonCode
    detail: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, code: ReasonCode, detail: str = "", **facts: object) -> Self:
        return cls(code, detail, tuple([(name, str(value)) for name, value in facts.items()]))

    def __str__(self) -> str:
        text = self.code.meaning if not self.detail else f"{self.code.meaning}: {self.detail}"
        if self.facts:
            text += " (" + ", ".join([f"{name} {value}" for name, value in self.facts]) + ")"
        return text

    def as_dict(self) -> dict[str, object]:
        """The JSON form that the API, the journal and `--format json` use."""
        return {
            "reason": self.code.word,
            "text": str(self),
            "remedy": self.code.remedy,
            "fault": self.code.fault.value,
            "windows_code": self.code.windows_code,
            "facts": dict(self.facts),
        }


class StockadeError(Exception):
    """The root of our errors. `reason` says what, where, why and what to do."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class CallerError(StockadeError):
    """A bad command, policy or argument: the person or program that calls can put it right."""


class PeerError(StockadeError):
    """Bytes or behaviour of the other end."""


class HostError(StockadeError):
    """This system refuses or lacks something."""


_CLASSES: dict[Fault, type[StockadeError]] = {
    Fault.CALLER: CallerError,
    Fault.PEER: PeerError,
    Fault.HOST: HostError,
}


def error_of(reason: Reason) -> StockadeError:
    """The error of the class that the reason's fault asks for, ready to raise."""
    return _CLASSES[reason.code.fault](reason)


def error_for(code: ReasonCode, detail: str = "", **facts: object) -> StockadeError:
    """The error of the class that the code's fault asks for, ready to raise."""
    return _CLASSES[code.fault](Reason.of(code, detail, **facts))
