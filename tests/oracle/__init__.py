"""The plain implementation of the rules for CSVs, kept as it was: one row after the other, in the simplest way.

It is not shipped. It says what is right wherever the engine in `dropzone.sheet` says something else; only the table of
rules and repairs (`dropzone.sheet.rules`) is shared, because a second copy of it would prove nothing about sentences.
"""
