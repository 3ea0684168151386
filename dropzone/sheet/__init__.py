"""CSVs as partners make them, and as OptiPub takes them: what is wrong, what is put right, what goes out.

Binary streams in and out; knows no paths, no ledger and no network. `check` reads a file once, in bounded memory.

    rules     the one table: what is said of each rule and repair, what an address is, the limits
    source    where bytes come from and go to; a file, for reading it twice
    text      bytes to text: unpacking, decoding, line ends
    lines     a bounded window over the text, with whole rows in sight
    header    the first line: delimiter, names of columns, their order
    patterns  tier 1 and 2: the rows of one layout as one pattern, for RE2 and for `re`
    rewrite   tier 2: rows that are valid but written differently, put right many at a time
    rows      tier 3: one row, exactly: cells with their positions, quotes, blanks
    digests   what may stand in the column of the addresses
    tiers     which of them are tried on a file, in which order
    reading   the rows of a file or of a part: what becomes of each, what is counted
    trail     which rows may repeat an address, by `hashes` of many at once; which do is found by `same`, also many at
              once, or row by row by `repeats`; `blocks`: where hashes and rows wait on disk; `held`: the last wins
    behind    writing and hashing, on another core while reading goes on; `cores`: how many there are
    parts     a large file cut into parts, `beside`: each read by an interpreter of its own
    check     the order of it all, and the verdict
"""

from dropzone.sheet.check import check
from dropzone.sheet.cores import cores
from dropzone.sheet.patterns import engine
from dropzone.sheet.rules import mask

__all__ = ["check", "cores", "engine", "mask"]
