"""An exchange with a lake behind its topics: what a feed published, as rows."""

import threading
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import text

from k2_dagster.cli.init import initialize
from k2_dagster.feeds.capture.formats import open_capture
from k2_dagster.feeds.capture.player import PlayReport, play
from k2_dagster.ingest.drain import drain_exchange
from k2_dagster.lake.catalog import close_catalog, open_catalog
from k2_dagster.schemas.profiles import PACKAGED_PROFILES, load_profiles
from k2_dagster.settings import Settings
from k2_dagster.state.database import Database


class Venue:
    """An exchange of the packaged profiles under a name of this test's own, with a lake."""

    def __init__(self, settings: Settings, folder: Path, profile: str) -> None:
        self.name = f"{profile}_{uuid.uuid4().hex[:8]}"
        path = folder / "profiles.toml"
        text_ = PACKAGED_PROFILES.read_text().replace(f"[exchanges.{profile}.", f"[exchanges.{self.name}.")
        path.write_text(text_.replace(f"[exchanges.{profile}]", f"[exchanges.{self.name}]"))
        self.settings = settings.model_copy(update={"profiles": path})
        self.profiles = load_profiles(path)
        initialize(self.settings, self.profiles, (self.name,))

    def play(self, path: Path, speed: float | None = None, stop_after: int | None = None) -> PlayReport:
        """Play into the topics, and land what is there."""
        stop = threading.Event()

        def progress(report: PlayReport) -> None:
            if stop_after is not None and report.inputs >= stop_after:
                stop.set()

        capture = open_capture(path, self.name)
        (report,) = play(self.settings, self.profiles, [capture], speed=speed, stop=stop, on_progress=progress)
        self.land()
        return report

    def land(self) -> None:
        """Everything that is on the topics by now."""
        drain_exchange(self.settings, self.profiles, self.name, cap_seconds=None, stop=threading.Event())

    def rows(self, table: str) -> list[dict[str, Any]]:
        catalog = open_catalog(self.settings)
        try:
            found: list[dict[str, Any]] = catalog.load_table(f"market_data.{table}").scan().to_arrow().to_pylist()
            return found
        finally:
            close_catalog(catalog)

    def reasons(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rows("quarantine"))

    def gaps(self) -> list[Any]:
        with closing(Database(self.settings)) as database, database.begin() as connection:
            return list(connection.execute(text("SELECT first_sequence, last_sequence FROM k2.gaps")))
