"""`--format ollama`: a folder with a GGUF file and the Modelfile that `ollama create` takes."""

from __future__ import annotations

from pathlib import Path

from siredon.export.file import check_replaceable
from siredon.export.folder import copy_record, written_beside
from siredon.export.gguf_check import check_gguf
from siredon.export.gguf_vocab import find_frame, read_template
from siredon.export.gguf_write import check_type, write_gguf
from siredon.export.go_template import find_form
from siredon.export.modelfile import Modelfile, read_modelfile, write_modelfile
from siredon.export.round_trip import Check, show_checks
from siredon.export.source import Source
from siredon.export.wanted import Wanted
from siredon.log import note


def export_ollama(source: Source, wanted: Wanted) -> Path:
    """Writes the folder, reads both files back, and puts it in its place if they say what went in.

    Raises:
        ModelError: Something that GGUF or a Modelfile cannot hold, or a file that is not the same model.
    """
    word = check_type(wanted.type)
    tokenizer = source.load_tokenizer()
    begins, _ = find_frame(tokenizer)
    template, system = find_form(tokenizer, read_template(tokenizer), adds_bos=begins)
    stops = [str(tokenizer.convert_ids_to_tokens(stop)) for stop in source.read_stop_ids(tokenizer)]
    modelfile = Modelfile(f"{source.name}-{word}.gguf", template, tuple(stops), wanted.system or system)
    text = write_modelfile(modelfile)
    folder = wanted.output or source.run / "ollama"
    check_replaceable(folder)
    with written_beside(folder) as draft:
        write_gguf(source, word, draft / modelfile.weights)
        (draft / "Modelfile").write_text(text)
        copy_record(source.run, draft)
        note("reading it back")
        read = read_modelfile((draft / "Modelfile").read_text())
        checks = [
            Check(
                "Modelfile",
                "says the same" if read == modelfile else f"{read}",
                "the same",
                read == modelfile,
            ),
            Check("TEMPLATE", "renders conversations as the chat template does", "the same"),
            *check_gguf(source, draft / read.weights),
        ]
        show_checks(folder.name, checks)
    note(f"to use it: cd {folder} && ollama create {source.name} -f Modelfile && ollama run {source.name}")
    return folder


EXPORT = export_ollama
