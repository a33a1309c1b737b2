"""Find a checkpoint, check it, and load it with stock transformers: safetensors only, no remote code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from headrace.backbones.chat import plain_template
from headrace.backbones.int8 import quantise

CONFIG = "config.json"
HUB_TIMEOUT_S = 10.0  # longest wait for the hub's first answer
SAMPLED = 1 << 14  # values of a large weight that its fingerprint rests on


class ModelError(ValueError):
    """A model that cannot be loaded; one line that names it and says what would be right."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model comes from.

    Attributes:
        name: Hub name or folder.
        revision: Branch, tag or commit on the hub, None for the default.
        offline: Use only what is on this machine.
        int8: Hold the decoder's matrices as int8.
    """

    name: str
    revision: str | None = None
    offline: bool = False
    int8: bool = False

    @property
    def is_folder(self) -> bool:
        """True when the name is a path on this machine."""
        return Path(self.name).is_dir()

    def options(self) -> dict[str, Any]:
        """Arguments of every ``from_pretrained``."""
        return {
            "revision": self.revision,
            "local_files_only": self.offline or self.is_folder,
            "trust_remote_code": False,
        }

    def read(self, file: str) -> str | None:
        """Read a text file of the checkpoint, None where there is none."""
        options = {k: v for k, v in self.options().items() if k != "trust_remote_code"}
        path = cached_file(self.name, file, _raise_exceptions_for_missing_entries=False, **options)
        return None if path is None else Path(path).read_text(encoding="utf-8")

    def config(self) -> Any:
        """Load the configuration.

        Raises:
            ModelError: The folder or hub name holds none, or cannot be reached.
        """
        if not self.is_folder and (Path(self.name).exists() or self.name.startswith(("/", "./", "../", "~"))):
            raise ModelError(f"model {self.name!r}: is not a folder; give a folder with config.json, or a hub name")
        if self.is_folder and not (Path(self.name) / CONFIG).is_file():
            raise ModelError(f"model folder {self.name!r}: holds no config.json; give a folder save_pretrained wrote")
        if not self.is_folder and not self.offline:
            self._check_hub()
        try:
            return AutoConfig.from_pretrained(self.name, **self.options())
        except (OSError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, json.JSONDecodeError) as error:
            if self.offline:
                raise ModelError(f"model {self.name!r}: not in the local cache, and the hub may not be asked") from None
            raise ModelError(
                f"model {self.name!r}: not found on this machine or the hub: {_first_line(error)}"
            ) from None
        except (ValueError, KeyError) as error:
            raise ModelError(f"model {self.name!r}: config.json cannot be used: {_first_line(error)}") from None

    def _check_hub(self) -> None:
        """Find out by one try that the hub cannot be reached; huggingface_hub would try six times, and tell of each.

        Raises:
            ModelError: The model is not in the cache, and nobody answers.
        """
        try:
            if isinstance(try_to_load_from_cache(self.name, CONFIG, revision=self.revision), str):
                return
            get_hf_file_metadata(hf_hub_url(self.name, CONFIG, revision=self.revision), timeout=HUB_TIMEOUT_S)
        except (OSError, ValueError):  # an answer, or a wrong name: of which transformers will tell
            return
        except Exception as error:
            why = f"not on this machine, and the hub cannot be reached ({_first_line(error)})"
            raise ModelError(f"model {self.name!r}: {why}; give a folder, or --offline for what is cached") from None

    def tokenizer(self) -> Any:
        """Load the tokenizer.

        Raises:
            ModelError: There is none.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name, **self.options())
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"model {self.name!r}: no usable tokenizer: {_first_line(error)}") from None
        if (template := self._template()) is not None:
            tokenizer.chat_template = template
        return tokenizer

    def _template(self) -> str | None:
        """The chat template of the processor, None where it has none and the tokenizer's holds.

        Raises:
            ModelError: A file that holds it is damaged, or has several without saying which.
        """
        for name in ("processor_config.json", "chat_template.json"):  # in the order in which AutoProcessor looks
            text = self.read(name)
            try:
                found = None if text is None else plain_template(json.loads(text).get("chat_template"))
            except (ValueError, AttributeError) as error:
                raise ModelError(f"model {self.name!r}: {name} cannot be used: {_first_line(error)}") from None
            if found is not None:
                return found
        return None

    def weights(self, model_class: Any, *, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the weights in ``dtype`` onto ``device``, ready to serve; the decoder's in int8 where that is asked for.

        Raises:
            ModelError: They are missing, damaged, or not safetensors.
        """
        transformers.utils.logging.disable_progress_bar()
        try:
            model, info = model_class.from_pretrained(
                self.name,
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are listed, and refused below by name
                output_loading_info=True,
                **self.options(),
            )
        except Exception as error:
            raise ModelError(f"model {self.name!r}: weights cannot be loaded: {_first_line(error)}") from None
        if info["missing_keys"] or info["mismatched_keys"]:
            missing = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
            raise ModelError(f"model {self.name!r}: {len(missing)} weights are missing or misshapen, e.g. {missing[0]}")
        if self.int8:
            quantise(model)
        return model.to(device).eval().requires_grad_(False)


def fingerprint(model: Any, settings: Mapping[str, Any]) -> str:
    """Hash all weights, large ones by values spread over them, and what else decides on answers.

    Args:
        model: The loaded model.
        settings: Numbers of its configuration, as text is made of them.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if weight.is_meta:
            continue
        values = weight.detach().flatten()
        if len(values) > SAMPLED:
            values = values[(torch.arange(SAMPLED) * len(values) // SAMPLED).to(values.device)]
        digest.update(values.view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def former_fingerprint(model: Any) -> str:
    """The fingerprint of earlier versions, which saw the first values of every weight."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        first = [] if weight.is_meta else weight.detach().flatten()[:8].float().cpu().tolist()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {first}".encode())
    return digest.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    """The first line of an error, without the advice transformers adds."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:300]
