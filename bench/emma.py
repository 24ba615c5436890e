"""The text of the page of evaluations for real models: Jane Austen's Emma, out of Debian's package of her novels.

    apt-get download r-cran-janeaustenr
    python bench/emma.py r-cran-janeaustenr_*.deb emma.txt

R keeps data as pieces that zlib packed, one a novel, of which Emma is the first: a vector of lines.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

DATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
TEXTS, TEXT = 16, 9  # R's numbers for a vector of texts, and for one


def main() -> int:
    package, out = map(Path, sys.argv[1:])
    unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tree:
        data = tree.extractfile(DATA)
        assert data is not None
        out.write_text("".join(f"{line}\n" for line in lines_of(data.read())), encoding="utf-8")
    return 0


def lines_of(database: bytes) -> list[str]:
    """The lines of the first vector of texts: 4 bytes of its size, then R's serialization, packed."""
    plain = zlib.decompressobj().decompress(database[4:])
    at = plain.index(struct.pack(">I", TEXTS)) + 4
    (count,) = struct.unpack_from(">I", plain, at)
    at += 4
    lines = []
    for _ in range(count):
        flags, size = struct.unpack_from(">Ii", plain, at)
        assert flags & 0xFF == TEXT, flags
        at += 8
        lines.append(plain[at : at + size].decode())
        at += size
    return lines


if __name__ == "__main__":
    sys.exit(main())
