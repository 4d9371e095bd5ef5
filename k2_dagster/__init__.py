"""K2: a market-data lakehouse. Every name has one import path; nothing is re-exported here."""

__version__ = "0.1.0"
