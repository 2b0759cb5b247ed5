"""The inputs of a trial that its settings only name: its data and the weights that it starts from, identified by their
content. And how the inputs of a finished trial differ from the present ones."""

from pathlib import Path

from workbench.config.schema import Settings
from workbench.data.corpus import fingerprint_of
from workbench.model.encoders import check_encoders
from workbench.record import TrialTags, is_start
from workbench.training.prepare import shipped_for
from workbench.training.suites import check_suites
from workbench.training.warm_start import start_fingerprint


class Inputs:
    """The present inputs. Each is read once for all settings that share it."""

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self.known: dict[str, str] = {}

    def read(self, settings: Settings) -> tuple[str, str]:
        """Returns the fingerprints of the data and the start of a trial with these settings. Raises UserError where
        they cannot be read."""
        data = self._data(settings)
        return data, self._start(settings, data)

    def check(self, settings: Settings) -> None:
        """Reads the data and builds the encoders. Raises UserError where that fails."""
        self.read(settings)
        encoders = settings.model_dump_json(
            include={
                "model": {"vision", "text", "width"},
                "data": {"image_size", "tokeniser", "max_length", "vocabulary"},
            }
        )
        if encoders not in self.known:
            check_encoders(settings)
            self.known[encoders] = ""
        suites = settings.model_dump_json(include={"evaluation": {"suites"}, "data": {"source", "image_size"}})
        if suites not in self.known:
            check_suites(settings)
            self.known[suites] = ""

    def changes(self, settings: Settings, then: TrialTags) -> list[str]:
        """Returns in words how the present inputs differ from those of a finished trial with these settings. Inputs
        that were not recorded count as equal. Raises UserError where the present ones cannot be read."""
        data, changes = self._data(settings), []
        if then.data and then.data != data:
            changes.append(f"the data ({_source(settings)}: {then.data} then, {data} now)")
        # The start's name includes its data; only other differences count here.
        start = self._start(settings, then.data or data)
        if then.warm_start and not is_start(start, then.warm_start):
            changes.append(f"the start ({_weights(settings)}: {then.warm_start} then, {start} now)")
        return changes

    def _data(self, settings: Settings) -> str:
        # The package's encoders come with the tokeniser that reads the captions.
        packaged = settings.warm_start.source == "package"
        identity = settings.data.model_dump_json(exclude={"augment", "workers", "caption_noise", "foils"})
        identity += settings.model.model_dump_json() if packaged else ""
        if identity not in self.known:
            shipped = shipped_for(settings)
            tokeniser = shipped.tokeniser if shipped else None
            self.known[identity] = fingerprint_of(settings.data, self.cache_dir, tokeniser)
        return self.known[identity]

    def _start(self, settings: Settings, data: str) -> str:
        identity = data + settings.model_dump_json(include={"warm_start"})
        identity += settings.model.model_dump_json(exclude={"mlm_head"})  # a fused start is specific to its fusion
        if identity not in self.known:
            self.known[identity] = start_fingerprint(settings, data, shipped_for(settings))
        return self.known[identity]


def _source(settings: Settings) -> str:
    return settings.data.path or ", ".join(settings.data.mix) or "scenes, which are rendered differently"


def _weights(settings: Settings) -> str:
    model = settings.model
    files = [file for file in (model.vision.weights, model.text.weights, model.weights) if file]
    return ", ".join(files) or "warm start, which is trained differently"
