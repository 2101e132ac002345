"""From files to models: shards, projectors and ids."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tray_app.engine.gguf import Header
from tray_app.engine.gguf_cache import FileKey
from tray_app.engine.library_files import SeenFile
from tray_app.engine.library_models import Assembly, ScannedFile, assemble
from tray_app.engine.values import Model, ModelKind

ROOT = "/models"
HEADER = Header(
    version=3,
    big_endian=False,
    tensor_count=10,
    details=True,
    architecture="llama",
    has_chat_template=True,
    parameter_count=100,
)


def file(
    path: str,
    header: Header | None = HEADER,
    problem: str | None = None,
    known_id: str | None = None,
    available: bool = True,
) -> ScannedFile:
    key = FileKey(1000, 5_000_000_000, 0)
    seen = SeenFile(f"{ROOT}/{path}", ROOT, key, 1, available)
    return ScannedFile(seen, header, problem, known_id)


def shard(number: int, count: int, header: Header = HEADER, stem: str = "big-Q4_0") -> ScannedFile:
    if number > 1:
        header = replace(header, architecture=None, has_chat_template=False)
    header = replace(header, split_count=count)
    return file(f"org/big-GGUF/{stem}-{number:05}-of-{count:05}.gguf", header)


def only(assembly: Assembly) -> Model:
    (model,) = assembly.models
    return model


def reason(assembly: Assembly) -> str:
    assert assembly.models == ()
    (row,) = assembly.left_out
    return row.reason


def test_shards_are_one_model_with_the_first_as_its_file() -> None:
    model = only(assemble([shard(3, 3), shard(1, 3), shard(2, 3)]))
    assert model.id == "org/big-GGUF:Q4_0"
    assert model.path.name == "big-Q4_0-00001-of-00003.gguf"
    assert (model.shard_count, model.size_bytes, model.parameter_count) == (3, 3000, 300)
    assert model.kind is ModelKind.CHAT


def test_details_are_known_when_those_of_all_shards_are() -> None:
    model = only(assemble([shard(1, 2), shard(2, 2, replace(HEADER, details=False))]))
    assert not model.details_known
    assert model.parameter_count is None


@pytest.mark.parametrize(
    ("present", "text"),
    [
        ((1, 3), "Shard 2 of 3 missing."),
        ((3,), "Shards 1, 2 of 3 missing."),
    ],
)
def test_missing_shards_leave_the_model_out_and_are_named(
    present: tuple[int, ...], text: str
) -> None:
    assert reason(assemble([shard(number, 3) for number in present])) == text


def test_a_long_list_of_missing_shards_is_cut_short() -> None:
    text = reason(assemble([shard(1, 99999)]))
    assert text == "Shards 2, 3, 4, 5 and 99,994 more of 99999 missing."


def test_a_broken_shard_leaves_the_model_out() -> None:
    broken = replace(shard(2, 2), problem="The file is incomplete.", header=None)
    text = reason(assemble([shard(1, 2), broken]))
    assert text == "Shard 2 of 2 cannot be used: The file is incomplete."


def test_shards_whose_headers_disagree_with_their_names_are_left_out() -> None:
    first, second = shard(1, 2), shard(2, 2)
    assert second.header is not None
    second = replace(second, header=replace(second.header, split_count=5))
    assert "says it is one of 5" in reason(assemble([first, second]))


def test_the_first_shard_may_hold_no_tensors() -> None:
    model = only(assemble([shard(1, 2, replace(HEADER, tensor_count=0)), shard(2, 2)]))
    assert model.shard_count == 2


def test_shards_of_two_quantizations_do_not_mix() -> None:
    files = [shard(n, 2, stem=stem) for stem in ("big-Q4_0", "big-Q8_0") for n in (1, 2)]
    assert {model.id for model in assemble(files).models} == {
        "org/big-GGUF:Q4_0",
        "org/big-GGUF:Q8_0",
    }


def test_a_model_is_unavailable_when_one_of_its_files_is() -> None:
    assert not only(assemble([file("a-Q4_0.gguf", available=False)])).available


PROJECTOR = replace(HEADER, architecture="clip", general_type="mmproj")


def paired(*paths: str) -> dict[str, str | None]:
    """Model id -> the projector it got, relative to the root."""
    files = [file(path, PROJECTOR if "mmproj" in path else HEADER) for path in paths]
    return {
        model.id: str(model.mmproj_path)[len(ROOT) + 1 :] if model.mmproj_path else None
        for model in assemble(files).models
    }


def test_a_nameless_projector_beside_a_model_belongs_to_it() -> None:
    assert paired("org/see-GGUF/see-Q4_0.gguf", "org/see-GGUF/mmproj-F16.gguf") == {
        "org/see-GGUF:Q4_0": "org/see-GGUF/mmproj-F16.gguf"
    }


def test_all_quantizations_of_a_repo_share_its_projector() -> None:
    found = paired("o/s/s-Q4_0.gguf", "o/s/s-Q8_0.gguf", "o/s/mmproj-model-f16.gguf")
    assert set(found.values()) == {"o/s/mmproj-model-f16.gguf"}


def test_a_projector_is_found_above_the_folder_of_a_quantization() -> None:
    found = paired("o/see/Q4_K_M/see-Q4_K_M-00001-of-00001.gguf", "o/see/mmproj-F16.gguf")
    assert found == {"o/see:Q4_K_M": "o/see/mmproj-F16.gguf"}


def test_the_deepest_of_two_nameless_projectors_wins() -> None:
    found = paired("o/see/x/see-Q4_0.gguf", "o/see/x/mmproj-F16.gguf", "o/see/mmproj-F16.gguf")
    assert list(found.values()) == ["o/see/x/mmproj-F16.gguf"]


def test_a_projector_with_the_models_name_wins_over_a_nameless_one() -> None:
    found = paired("see-Q4_0.gguf", "mmproj-see-F16.gguf", "mmproj-F16.gguf")
    assert list(found.values()) == ["mmproj-see-F16.gguf"]


def test_in_a_flat_folder_only_a_named_projector_counts() -> None:
    found = paired("see-Q4_0.gguf", "blind-Q4_0.gguf", "mmproj-see-f16.gguf", "mmproj-F16.gguf")
    assert found == {"see:Q4_0": "mmproj-see-f16.gguf", "blind:Q4_0": None}


def test_full_precision_projectors_are_preferred() -> None:
    found = paired("see-Q4_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-Q8_0.gguf")
    assert list(found.values()) == ["mmproj-F16.gguf"]


def test_a_projector_is_known_by_its_header_whatever_its_name() -> None:
    assembly = assemble([file("o/see/see-Q4_0.gguf"), file("o/see/vision-F16.gguf", PROJECTOR)])
    assert [model.id for model in assembly.models] == ["o/see:Q4_0"]


def test_variants_of_one_repo_get_ids_of_their_own() -> None:
    assembly = assemble(
        [
            file("o/coder-GGUF/coder-Q4_0.gguf"),
            file("o/coder-GGUF/coder-v2-Q4_0.gguf"),
            file("o/coder-GGUF/sub/coder-Q4_0.gguf"),
            file("x/o/coder-GGUF/coder-Q4_0.gguf"),
        ]
    )
    ids = [model.id for model in assembly.models]
    assert len(set(ids)) == 4
    assert {"o/coder-GGUF:Q4_0", "o/coder-GGUF:coder-v2-Q4_0"} <= set(ids)


def test_ids_do_not_depend_on_the_order_of_files() -> None:
    files = [file(f"{place}/a-Q4_0.gguf") for place in ("p", "q", "r")]
    forwards = {model.path: model.id for model in assemble(files).models}
    backwards = {model.path: model.id for model in assemble(files[::-1]).models}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3


def test_an_id_that_a_file_had_stays_with_it() -> None:
    files = [file("a/a-Q4_0.gguf"), file("b/a-Q4_0.gguf", known_id="a:Q4_0")]
    by_path = {str(model.path): model.id for model in assemble(files).models}
    assert by_path[f"{ROOT}/b/a-Q4_0.gguf"] == "a:Q4_0"
    assert by_path[f"{ROOT}/a/a-Q4_0.gguf"] != "a:Q4_0"


def test_an_id_from_before_a_rename_is_given_up() -> None:
    assert only(assemble([file("new-Q4_0.gguf", known_id="old:Q4_0")])).id == "new:Q4_0"
