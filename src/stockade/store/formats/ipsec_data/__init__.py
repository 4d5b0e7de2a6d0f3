"""The five kinds of `ipsecData`, byte for byte ([MS-GPIPSEC] §2.2.1): one module per kind.

Every class has `decode(data, where)` and `encode()`. Whatever decodes encodes to the same bytes: unused
fields, garbage and bytes past the end are kept. They are parsed by structure and counts, not by Data-Length,
which is kept where it differs from the usual. What the numbers *mean* is the matter of
`stockade.store.formats.objects` and its neighbours."""

from stockade.store.formats.ipsec_data.filters import FilterListData
from stockade.store.formats.ipsec_data.isakmp import IsakmpData
from stockade.store.formats.ipsec_data.negotiation import NegotiationData
from stockade.store.formats.ipsec_data.nfa import NfaData
from stockade.store.formats.ipsec_data.policy import PolicyData
from stockade.store.formats.ipsec_data.text import WideText

IpsecData = PolicyData | IsakmpData | NegotiationData | NfaData | FilterListData

__all__ = [
    "FilterListData",
    "IpsecData",
    "IsakmpData",
    "NegotiationData",
    "NfaData",
    "PolicyData",
    "WideText",
]
