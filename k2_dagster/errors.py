"""The exception tree of K2.

    K2Error
    ├── TransientError                 worth retrying, with a bound
    │   ├── KafkaUnavailable           no broker answered in time
    │   ├── RegistryUnavailable        the schema registry did not answer
    │   ├── DatabaseUnavailable        the control database or the catalog did not answer
    │   ├── WarehouseUnavailable       the warehouse's storage did not answer
    │   ├── SchemaUnknown              a message names a schema id that the registry does not know (yet)
    │   ├── FenceMoved                 another writer committed first: reload and start from the new fence
    │   ├── CommitUnknown              a commit's outcome could not be read back yet
    │   ├── DeliveryTimedOut           Kafka did not take accepted messages in time, or they were given up
    │   ├── ReaderStalled              the broker has messages that the client does not deliver
    │   ├── AlertUndelivered           a service did not take an incident's message
    │   ├── VenueUnavailable           a venue could not be reached
    │   ├── LeaseHeld                  another process drives this exchange, or recovers it
    │   └── StopOverdue                the work did not end in time after it was asked to
    └── TerminalError                  retrying cannot help: halt and say what to do
        ├── ConfigurationError         a setting, profile or argument is wrong
        ├── NotInitialized             `k2 init` has not been run here
        ├── DatabaseMismatch           the control database is not one that this version of K2 can work with
        ├── TableLost                  the warehouse does not have the metadata file that the catalog names
        ├── SchemaIncompatible         a schema change breaks readers of what is already there
        ├── RegistryRejected           the schema registry refused the request
        ├── DeliveryFailed             Kafka did not take a message that was accepted for it
        ├── PartitionCountChanged      the topic's partition count is not the declared one
        ├── InputLost                  Kafka no longer has messages that no table holds
        │   ├── RetentionOverrun       the fence is older than the earliest retained offset
        │   ├── TopicRecreated         the topic's id is not the one that the fence was made with
        │   └── LogShrunk              the topic ends before the fence
        ├── DatabaseRefused            the control database did not take what was written
        ├── LossUnseen                 a loss is not the one that was shown to whoever accepts it
        ├── FenceDisagrees             snapshot and table property name different positions
        ├── RulesDiffer                the stream is judged by newer rules, or by others of the same version
        ├── SubscriptionRefused        a venue does not offer what was subscribed to
        ├── RecoveryRefused            a source cannot give these messages again
        ├── PacketInvalid              a packet of a line is not of its protocol
        ├── CaptureInvalid             a capture file is not in the format it claims
        ├── QueryRefused               the query cannot be answered as asked
        ├── StackFailed                a part of the development stack did not come up
        └── VerificationFailed         tables and topics do not agree

Foreign exceptions are translated where they enter; the original stays as `__cause__`. Constructors take fields, and
the message is built from them: what was found, what would be valid, what to do.
"""

from typing import Any

TRY_ADDRESS = "`k2 doctor` tries the address"
"""Advice where nothing better is known; `k2 doctor` puts its own in its place."""


class K2Error(Exception):
    """Base of every error that K2 raises on purpose. `fields` are machine-readable; `str()` is for a person."""

    def __init__(self, message: str, *, advice: str = "", **fields: Any) -> None:
        super().__init__(f"{message}\n  -> {advice}" if advice else message)
        self.message = message
        self.advice = advice
        self.fields = fields


class TransientError(K2Error):
    """Worth retrying, with a bound."""


class KafkaUnavailable(TransientError):
    """No broker answered in time."""


class RegistryUnavailable(TransientError):
    """The schema registry did not answer."""


class DatabaseUnavailable(TransientError):
    """The control database or the catalog did not answer."""


class WarehouseUnavailable(TransientError):
    """The warehouse's storage did not answer."""


class SchemaUnknown(TransientError):
    """A message names a schema id that the registry does not know (yet)."""


class FenceMoved(TransientError):
    """Another writer committed first: reload and start from the new fence."""


class CommitUnknown(TransientError):
    """A commit's outcome could not be read back yet."""


class DeliveryTimedOut(TransientError):
    """Kafka did not take accepted messages in time, or they were given up."""


class ReaderStalled(TransientError):
    """The broker has messages that the client does not deliver."""


class AlertUndelivered(TransientError):
    """A service did not take an incident's message."""


class VenueUnavailable(TransientError):
    """A venue could not be reached."""


class LeaseHeld(TransientError):
    """Another process drives this exchange, or recovers it."""


class StopOverdue(TransientError):
    """The work did not end in time after it was asked to."""


class TerminalError(K2Error):
    """Retrying cannot help: halt and say what to do."""


class ConfigurationError(TerminalError):
    """A setting, profile or argument is wrong."""


class NotInitialized(TerminalError):
    """`k2 init` has not been run here."""


class DatabaseMismatch(TerminalError):
    """The control database is not one that this version of K2 can work with."""


class TableLost(TerminalError):
    """The warehouse does not have the metadata file that the catalog names."""


class SchemaIncompatible(TerminalError):
    """A schema change breaks readers of what is already there."""


class RegistryRejected(TerminalError):
    """The schema registry refused the request."""


class DeliveryFailed(TerminalError):
    """Kafka did not take a message that was accepted for it."""


class PartitionCountChanged(TerminalError):
    """The topic's partition count is not the declared one."""


class InputLost(TerminalError):
    """Kafka no longer has messages that no table holds."""


class RetentionOverrun(InputLost):
    """The fence is older than the earliest retained offset."""


class TopicRecreated(InputLost):
    """The topic's id is not the one that the fence was made with."""


class LogShrunk(InputLost):
    """The topic ends before the fence."""


class DatabaseRefused(TerminalError):
    """The control database did not take what was written."""


class LossUnseen(TerminalError):
    """A loss is not the one that was shown to whoever accepts it."""


class FenceDisagrees(TerminalError):
    """Snapshot and table property name different positions."""


class RulesDiffer(TerminalError):
    """The stream is judged by newer rules, or by others of the same version."""


class SubscriptionRefused(TerminalError):
    """A venue does not offer what was subscribed to."""


class RecoveryRefused(TerminalError):
    """A source cannot give these messages again."""


class PacketInvalid(TerminalError):
    """A packet of a line is not of its protocol."""


class CaptureInvalid(TerminalError):
    """A capture file is not in the format it claims."""


class QueryRefused(TerminalError):
    """The query cannot be answered as asked."""


class StackFailed(TerminalError):
    """A part of the development stack did not come up."""


class VerificationFailed(TerminalError):
    """Tables and topics do not agree."""
