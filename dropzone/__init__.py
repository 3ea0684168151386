"""dropzone: hands partners' CSV files to OptiPub segments, and can say afterwards what became of each."""

__version__ = "0.1.0"
