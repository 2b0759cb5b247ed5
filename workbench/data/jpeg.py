"""Images stored as JPEG. A shard is one file: the images one after another, then int64 [n, 2], the first byte and the
end of each."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

INDEX: Final = np.dtype("<i8")
FULL_CHROMA = 0  # PIL's value for 4:4:4: captions name colours, even of small things
SHARE = 0.25  # upper bound of the share of the raw size, for usual photographs at quality 95: 0.18 measured


def encode(pixels: np.ndarray, quality: int) -> bytes:
    """The JPEG of uint8 [3, S, S], with colours at full resolution."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(buffer, "JPEG", quality=quality, subsampling=FULL_CHROMA, optimize=True)
    return buffer.getvalue()


def decode(blob: bytes, side: int) -> np.ndarray:
    """uint8 [3, side, side]. Raises ValueError if the bytes are not a JPEG of that side."""
    try:
        with Image.open(io.BytesIO(blob), formats=["JPEG"]) as opened:
            if opened.size != (side, side) or opened.mode != "RGB":
                raise ValueError(f"{opened.size[0]} x {opened.size[1]} px, {opened.mode}")
            return np.asarray(opened).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:  # PIL raises either on damaged bytes
        raise ValueError(str(error)) from error


def decode_all(blobs: Sequence[bytes], side: int, device: "torch.device") -> "torch.Tensor":
    """uint8 [B, 3, side, side] on the device. On a GPU nvJPEG decodes, if torchvision is built with it, elsewhere PIL;
    the two may round pixels differently. Raises ValueError as `decode`."""
    # Imported only here, since a process that prepares images does not need torch.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        encoded = [torch.frombuffer(bytearray(blob), dtype=torch.uint8) for blob in blobs]
        try:
            return torch.stack(decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device))
        except RuntimeError:  # built without nvJPEG, or it cannot read one of them
            pass
    return torch.from_numpy(np.stack([decode(blob, side) for blob in blobs])).to(device)


def shard_parts(rows: int, images: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """The content of a shard's file, from (place, JPEG) in any order. A place without a JPEG gets no bytes."""
    index, at = np.zeros((rows, 2), INDEX), 0
    for place, blob in images:
        index[place] = at, at + len(blob)
        at += len(blob)
        yield blob
    yield index.tobytes()


class JpegShard:
    """A shard's file, memory-mapped: `shard[place]` decodes an image.

    Raises UserError if its index points outside of its images, so that nothing else is ever read, or if an image is
    damaged.
    """

    def __init__(self, file: Path, rows: int, side: int) -> None:
        self.file, self.side = file, side
        size = file.stat().st_size
        blobs = size - rows * 2 * INDEX.itemsize
        if blobs < 0 or rows < 1:
            raise UserError(self._damaged("it is cut short"))
        self.bytes = np.memmap(file, np.uint8, "r")
        self.index = np.frombuffer(self.bytes[blobs:].tobytes(), INDEX).reshape(rows, 2)
        begin, end = self.index.T
        if (begin < 0).any() or (end < begin).any() or (end > blobs).any():
            raise UserError(self._damaged("its index points outside of it"))

    def blob(self, place: int) -> bytes:
        """The JPEG of an image."""
        begin, end = self.index[place]
        return self.bytes[begin:end].tobytes()

    def __getitem__(self, place: int) -> np.ndarray:
        """uint8 [3, side, side]."""
        try:
            return decode(self.blob(place), self.side)
        except ValueError as error:
            raise UserError(self._damaged(f"its image {place} cannot be decoded ({error})")) from error

    def _damaged(self, how: str) -> str:
        return f"{self.file}: damaged, {how}; remove the folder {self.file.parent} and prepare it again."
