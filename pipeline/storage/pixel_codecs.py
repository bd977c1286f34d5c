"""How the pixels of an archive are compressed: without loss, and with a checksum.

An archive carries the name of its codec, and each array how it was written, so arrays of both kinds
stand side by side. What no codec of pictures holds (floats, more than four channels) is written
by zstd.

Sources: ISO/IEC 18181 (JPEG XL); Zarr v3 core specification; the name and configuration of the
codec are those of the package imagecodecs-zarr, with which any program of Zarr reads the arrays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import Crc32cCodec, TransposeCodec, ZstdCodec
from zarr.registry import register_codec

from pipeline.constants import ZSTD

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from zarr.abc.buffer import Buffer, NDBuffer

_MOST_CHANNELS = 4
_BETWEEN_0_AND_1 = ("uint8", "uint16")


@dataclass(frozen=True)
class JpegXl(ArrayBytesCodec):
    """Lossless JPEG XL of one chunk ``(..., y, x, c)``, where only the last three may exceed 1."""

    effort: int = 1
    """1 is the fastest: from 2 on it takes eight times as long for a tenth less."""

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what ``to_dict`` gave.

        Raises:
            ValueError: if it is not lossless.
        """
        configuration = data.get("configuration", {})
        if not configuration.get("lossless"):
            raise ValueError("the array was compressed by JPEG XL with loss, expected lossless")
        return cls(effort=int(configuration.get("effort", 1)))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as the metadata of an array holds it."""
        configuration = {"effort": self.effort, "lossless": True, "numthreads": 1}
        return {"name": "imagecodecs_jpegxl", "configuration": configuration}

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: Any) -> Buffer:
        data = await asyncio.to_thread(self._encoded, chunk_array.as_numpy_array())
        made: Buffer = chunk_spec.prototype.buffer.from_bytes(data)
        return made

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: Any) -> NDBuffer:
        pixels = await asyncio.to_thread(_decoded, chunk_bytes.to_bytes())
        kind: type[NDBuffer] = chunk_spec.prototype.nd_buffer
        return kind.from_numpy_array(pixels.reshape(chunk_spec.shape))

    def _encoded(self, chunk: NDArray[Any]) -> bytes:
        import imagecodecs  # Not for those who only read metadata: it takes a while.

        height, width, channels = chunk.shape[-3:]
        # What has one channel has no axis for it.
        shape = (height, width) if channels == 1 else (height, width, channels)
        pixels = np.ascontiguousarray(chunk).reshape(shape)
        return bytes(
            imagecodecs.jpegxl_encode(pixels, effort=self.effort, lossless=True, numthreads=1)
        )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Refuse: how long a picture becomes depends on what is in it."""
        raise NotImplementedError


def _decoded(data: bytes) -> NDArray[Any]:
    import imagecodecs

    pixels: NDArray[Any] = imagecodecs.jpegxl_decode(data, numthreads=1)
    return pixels


register_codec("imagecodecs_jpegxl", JpegXl)


def compression(codec: str, *, axes: str, dtype: str, channels: int) -> dict[str, Any]:
    """Return how Zarr is to compress an array: arguments of ``create_array``.

    `axes` is "cyx" or "ncyx". The checksum turns a flipped bit into an error.
    """
    if codec == ZSTD or dtype not in _BETWEEN_0_AND_1 or channels > _MOST_CHANNELS:
        return {"compressors": ZstdCodec(level=1, checksum=True)}
    at = axes.index("c")
    order = (*range(at), *range(at + 1, len(axes)), at)
    return {
        "filters": [TransposeCodec(order=order)],
        "serializer": JpegXl(),
        "compressors": [Crc32cCodec()],
    }
