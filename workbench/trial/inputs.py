"""What a trial is made from beside its settings, which name it alone: its data and the weights that it starts from,
told apart by what they hold; and how that of a trial differs from what is there now."""

from pathlib import Path

from workbench.config.schema import Settings
from workbench.data.corpus import fingerprint_of
from workbench.model.encoders import check_encoders
from workbench.record import TrialTags, is_start
from workbench.training.prepare import shipped_for
from workbench.training.suites import check_suites
from workbench.training.warm_start import start_fingerprint


class Inputs:
    """What is there now, each found out once for all settings that share it."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self.known: dict[str, str] = {}

    def read(self, settings: Settings) -> tuple[str, str]:
        """The names of the data and the start of a trial of these settings. Raises UserError where they cannot be
        read."""
        data = self._data(settings)
        return data, self._start(settings, data)

    def check(self, settings: Settings) -> None:
        """Reads the data, and builds the encoders. Raises UserError where that cannot be done."""
        self.read(settings)
        asked = settings.model_dump_json(
            include={
                "model": {"vision", "text", "width"},
                "data": {"image_size", "tokeniser", "max_length", "vocabulary"},
            }
        )
        if asked not in self.known:
            check_encoders(settings)
            self.known[asked] = ""
        suites = settings.model_dump_json(include={"evaluation": {"suites"}, "data": {"source", "image_size"}})
        if suites not in self.known:
            check_suites(settings)
            self.known[suites] = ""

    def changes(self, settings: Settings, then: TrialTags) -> list[str]:
        """How what is there now differs from what a trial of these settings was made from, in words; what was not
        recorded counts as equal. Raises UserError where they cannot be read now."""
        data, found = self._data(settings), []
        if then.data and then.data != data:
            found.append(f"the data ({_source(settings)}: {then.data} then, {data} now)")
        # The start is named after its data, too; asked is whether it differs apart from them.
        start = self._start(settings, then.data or data)
        if then.warm_start and not is_start(start, then.warm_start):
            found.append(f"the start ({_weights(settings)}: {then.warm_start} then, {start} now)")
        return found

    def _data(self, settings: Settings) -> str:
        # The encoders of the package bring the tokeniser with which captions are read.
        packaged = settings.warm_start.source == "package"
        asked = settings.data.model_dump_json(exclude={"augment", "workers", "caption_noise", "foils"})
        asked += settings.model.model_dump_json() if packaged else ""
        if asked not in self.known:
            shipped = shipped_for(settings)
            given = shipped.tokeniser if shipped else None
            self.known[asked] = fingerprint_of(settings.data, self.cache_dir, given)
        return self.known[asked]

    def _start(self, settings: Settings, data: str) -> str:
        asked = data + settings.model_dump_json(include={"warm_start"})
        asked += settings.model.model_dump_json(exclude={"mlm_head"})  # a fused start is of one form of fusion
        if asked not in self.known:
            self.known[asked] = start_fingerprint(settings, data, shipped_for(settings))
        return self.known[asked]


def _source(settings: Settings) -> str:
    return settings.data.path or ", ".join(settings.data.mix) or "scenes, which are rendered otherwise"


def _weights(settings: Settings) -> str:
    model = settings.model
    files = [file for file in (model.vision.weights, model.text.weights, model.weights) if file]
    return ", ".join(files) or "warm start, which is trained otherwise"
