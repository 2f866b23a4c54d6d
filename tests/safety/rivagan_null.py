"""What rivaGan reads from clean crops, kept in a file: it takes a second an image, of thousands.

``python -m tests.safety.rivagan_null [N]`` reads on where the file ends, up to N crops.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from safety.watermarks.rivagan import RivaGan
from tests.safety.clean import crops

PATH = Path(__file__).with_name("rivagan_clean_bits.npy")
IMAGES = 2000
CODEC = RivaGan("rivaGan", b"aud!")


def kept() -> np.ndarray:
    """The bits of the first crops of ``crops(IMAGES)``, shape (images, 1, 32)."""
    return np.unpackbits(np.load(PATH), axis=1).astype(bool)[:, None]


def main(last: int) -> None:
    bits = [kept()] if PATH.exists() else []
    for start in range(sum(map(len, bits)), last, 50):
        bits.append(CODEC.decode(crops(IMAGES)[start : min(start + 50, last)]))
        np.save(PATH, np.packbits(np.concatenate(bits)[:, 0], axis=1))
        print(f"{min(start + 50, last)} of {last}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
