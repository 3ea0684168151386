"""CSVs as partners make them, and as OptiPub takes them: what is wrong, what is put right, what goes out.

Binary streams in and out; knows no paths, no ledger and no network. `check` reads a file once, in bounded memory.

    rules     the one table: what is said of each rule and repair, what an address is, the limits
    lines     bytes to text: unpacking, decoding, line ends, a bounded window
    rows      one row, exactly: cells with their positions, quotes, blanks
    header    the first line: delimiter, names of columns, their order
    digests   what may stand in the column of the addresses
    repeats   addresses that come again
    check     the order of it all, and the verdict
"""

from dropzone.sheet.check import check
from dropzone.sheet.rules import mask

__all__ = ["check", "mask"]
