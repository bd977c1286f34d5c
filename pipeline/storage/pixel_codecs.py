"""How the pixels of an archive are compressed: without loss, and with a checksum.

An archive carries the name of its codec, and each array how it was written, so arrays of all kinds
stand side by side. What no codec of pictures holds (floats, more than four channels) is written
by zstd. `Jpeg` alone compresses nothing: it reads what the file of a picture held.

Sources: ISO/IEC 18181 (JPEG XL); ITU-T T.81 (JPEG); Zarr v3 core specification; the names and
configurations of the codecs are those of the package imagecodecs-zarr, with which any program of
Zarr reads the arrays.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
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


class _PictureCodec(ArrayBytesCodec):
    """A codec of one chunk ``(..., y, x, c)``, where only the last three may exceed 1.

    It decodes into an array of the chunk's own size: data of a larger picture is refused, however
    small it is itself.
    """

    is_fixed_size = False

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: Any) -> Buffer:
        data = await asyncio.to_thread(self._encoded, chunk_array.as_numpy_array())
        made: Buffer = chunk_spec.prototype.buffer.from_bytes(data)
        return made

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: Any) -> NDBuffer:
        pixels = np.empty(chunk_spec.shape, chunk_spec.dtype.to_native_dtype())
        await asyncio.to_thread(self._decode, chunk_bytes.to_bytes(), _as_picture(pixels))
        kind: type[NDBuffer] = chunk_spec.prototype.nd_buffer
        return kind.from_numpy_array(pixels)

    @abstractmethod
    def _encoded(self, chunk: NDArray[Any]) -> bytes: ...

    @abstractmethod
    def _decode(self, data: bytes, out: NDArray[Any]) -> None: ...

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Refuse: how long a picture becomes depends on what is in it."""
        raise NotImplementedError


@dataclass(frozen=True)
class JpegXl(_PictureCodec):
    """Lossless JPEG XL."""

    effort: int = 1
    """1 is the fastest: from 2 on it takes eight times as long for a tenth less."""

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

    def _encoded(self, chunk: NDArray[Any]) -> bytes:
        import imagecodecs  # Not for those who only read metadata: it takes a while.

        pixels = _as_picture(np.ascontiguousarray(chunk))
        return bytes(
            imagecodecs.jpegxl_encode(pixels, effort=self.effort, lossless=True, numthreads=1)
        )

    def _decode(self, data: bytes, out: NDArray[Any]) -> None:
        import imagecodecs

        imagecodecs.jpegxl_decode(data, numthreads=1, out=out)


@dataclass(frozen=True)
class Jpeg(_PictureCodec):
    """A JPEG file as it came: it is decoded, and never written from pixels."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what ``to_dict`` gave.

        Raises:
            ValueError: if the file is to be decoded in another way than its own.
        """
        if configuration := data.get("configuration"):
            raise ValueError(f"the array holds a JPEG with {configuration}, expected nothing")
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as the metadata of an array holds it."""
        return {"name": "imagecodecs_jpeg", "configuration": {}}

    def _encoded(self, chunk: NDArray[Any]) -> bytes:
        raise NotImplementedError("a JPEG of the source is not written from pixels")

    def _decode(self, data: bytes, out: NDArray[Any]) -> None:
        import imagecodecs

        imagecodecs.jpeg8_decode(data, out=out)


def decode_jpeg(data: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return the pixels ``(y, x, c)`` of a JPEG file of this shape, as `Jpeg` decodes it.

    Raises:
        ValueError: if the file is of another shape; it is not decoded then.
    """
    pixels = np.empty(shape, np.uint8)
    Jpeg()._decode(data, _as_picture(pixels))
    return pixels


def _as_picture(chunk: NDArray[Any]) -> NDArray[Any]:
    """Return a chunk ``(..., y, x, c)`` as codecs see it: one channel has no axis."""
    rows, columns, channels = chunk.shape[-3:]
    return chunk.reshape((rows, columns, channels) if channels > 1 else (rows, columns))


register_codec("imagecodecs_jpegxl", JpegXl)
register_codec("imagecodecs_jpeg", Jpeg)


def compression(codec: str, *, axes: str, dtype: str, channels: int) -> dict[str, Any]:
    """Return how Zarr is to compress an array: arguments of ``create_array``.

    `axes` is "cyx" or "ncyx". The checksum turns a flipped bit into an error.
    """
    if codec == ZSTD or dtype not in _BETWEEN_0_AND_1 or channels > _MOST_CHANNELS:
        return {"compressors": ZstdCodec(level=1, checksum=True)}
    return {
        "filters": [_channels_last(axes)],
        "serializer": JpegXl(),
        "compressors": [Crc32cCodec()],
    }


def of_a_file() -> dict[str, Any]:
    """Return how Zarr is to read an array "cyx" whose one chunk is a JPEG file: as `compression`.

    There is no checksum: the bytes are those of the file, whose hash is in the provenance.
    """
    return {"filters": [_channels_last("cyx")], "serializer": Jpeg(), "compressors": None}


def _channels_last(axes: str) -> TransposeCodec:
    at = axes.index("c")
    return TransposeCodec(order=(*range(at), *range(at + 1, len(axes)), at))
