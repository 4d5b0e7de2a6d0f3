"""A payload of a type that we do not know: kept as it is, for the engine to ignore or refuse."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """`type` 1–255."""

    type: int
    data: bytes

    def __post_init__(self) -> None:
        if not 1 <= self.type <= 0xFF:
            raise ValueError(f"payload type {self.type} is outside 1–255")

    @property
    def payload_type(self) -> int:
        return self.type

    def encode_body(self) -> bytes:
        return self.data
