"""Named Arrow tables as compressed bytes: how the state of the tracker is kept in an attempt."""

from io import BytesIO

import pyarrow as pa
import pyarrow.ipc


def framed(name: str, table: pa.Table) -> bytes:
    """One table with its name and lengths before it. Equal tables give equal bytes."""
    sink = BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    return len(name).to_bytes(2, "big") + name.encode() + len(body).to_bytes(8, "big") + body


def unframed(data: bytes) -> list[tuple[str, pa.Table]]:
    """What `framed` wrote, piece after piece."""
    out = []
    at = 0
    while at < len(data):
        name_end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        name = data[at + 2 : name_end].decode()
        body_end = name_end + 8 + int.from_bytes(data[name_end : name_end + 8], "big")
        out.append((name, pyarrow.ipc.open_stream(data[name_end + 8 : body_end]).read_all()))
        at = body_end
    return out
