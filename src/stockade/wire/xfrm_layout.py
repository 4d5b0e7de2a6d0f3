"""The structures of XFRM messages (linux/xfrm.h), for `xfrm` and `xfrm_decode`."""

import socket
from struct import Struct

ADDRESS_SIZE = 16
NAME_SIZE = 64
SELECTOR = Struct("=16s16s2s2s2s2sHBBB3xiI")
LIFETIME = Struct("=8Q")
CURRENT = Struct("=4Q")
ID = Struct("=16s4sB3x")
# selector, id, source, limits, usage, three statistics, sequence, request id, family, mode, window, flags
STATE = Struct(f"={SELECTOR.size}s{ID.size}s16s{LIFETIME.size}s{CURRENT.size}s5IHBBB7x")
STATE_ID = Struct("=16s4sHBx")
POLICY = Struct(f"={SELECTOR.size}s{LIFETIME.size}s{CURRENT.size}sIIBBBB4x")
POLICY_ID = Struct(f"={SELECTOR.size}sIB3x")
TEMPLATE = Struct(f"={ID.size}sH2x16sIBBBxIII")
ACQUIRE = Struct(f"={ID.size}s16s{SELECTOR.size}s{POLICY.size}sIIII")
EXPIRE = Struct(f"={STATE.size}sB7x")
# id of the SA (address, SPI, family, protocol), request id, old and new source, old and new port
MAPPING = Struct("=16s4sHBxI16s16s2s2s")
ALLOCATE = Struct(f"={STATE.size}sII")
ALGORITHM = Struct(f"={NAME_SIZE}sI")
ALGORITHM_WITH_ICV = Struct(f"={NAME_SIZE}sII")
ENCAPSULATION = Struct("=H2s2s2x16s")
MARK = Struct("=II")
REPLAY_ESN = Struct("=6I")
OFFLOAD = Struct("=iB3x")
MIGRATE = Struct("=16s16s16s16sBBHIHH")
U8 = Struct("=B")
U32 = Struct("=I")
U64 = Struct("=Q")
SPD_INFO = Struct("=6I")
FAMILY_OF = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSION_OF = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}
ANY_PORT_MASK = 0xFFFF
