import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain import paths
from registry.domain.errors import RegistryError
from registry.domain.paths import check_artifact_path, check_artifact_paths


@pytest.mark.parametrize(
    "path",
    ["best.safetensors", "weights/best.pt", ".hidden", "a b/c.json", "モデル/重み.bin", "console.txt",
     "com10", "a" * 255,
     "model-00001-of-00002.safetensors", "legit~1", "sub/.registry/notes", "x.git", "/".join("a" * 32)],
)  # fmt: skip
def test_an_ordinary_path_is_allowed(path: str) -> None:
    assert check_artifact_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "..\\a", "C:/a",
        "a:b",
        "a\x00", "a\nb", "a\x7f", "\u202egnp.bin", "\ud800", "a.", "a ", "a./b", "a /b", "...", 'a"', "a?", "a*", "a<b",
        "a|b", "é" * 128, "a" * 256, "a/" * 600 + "a", "/".join("a" * 33), "e\u0301", "a\u2028b",
    ],
)  # fmt: skip
def test_a_path_that_some_disk_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(paths.InvalidPathError):
        check_artifact_path(path)


@pytest.mark.parametrize(
    "path",
    [".git", ".GIT/config", "a/.git/hooks/x", ".gitattributes", ".git ", "git~1", "a/GIT~12", ".g\u200cit", ".git::$x"],
)
def test_a_path_into_git_is_refused(path: str) -> None:
    with pytest.raises(paths.InvalidPathError):
        check_artifact_path(path)


@pytest.mark.parametrize("path", ["con", "NUL", "a/Aux.txt", "com1", "LPT9.tar.gz", "com¹", "nul .txt", "CONIN$"])
def test_a_windows_device_is_refused(path: str) -> None:
    with pytest.raises(paths.InvalidPathError):
        check_artifact_path(path)


@pytest.mark.parametrize("path", [".registry", ".registry/state.json", ".Registry/x"])
def test_the_clients_own_folder_is_refused(path: str) -> None:
    with pytest.raises(paths.InvalidPathError):
        check_artifact_path(path)


@given(st.text(max_size=60))
def test_an_allowed_path_stays_where_it_is_put(path: str) -> None:
    try:
        check_artifact_path(path)
    except RegistryError as error:
        message = str(error)
        assert message.isprintable()
        return
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in path
    assert "\x00" not in path


@pytest.mark.parametrize(
    "listed",
    [
        ["a", "a"], ["a", "A"], ["straße", "STRASSE"], ["a", "a/b"], ["a/b", "a"], ["A", "a/b"], ["x/a", "X/b"],
        ["a", "a-b", "a/b"], ["d/É", "d/é"],
    ],
)  # fmt: skip
def test_paths_that_meet_on_some_disk_are_refused(listed: list[str]) -> None:
    with pytest.raises(paths.PathCollisionError):
        check_artifact_paths(listed)


def test_paths_that_only_resemble_each_other_are_allowed() -> None:
    check_artifact_paths(["a/b", "a/c", "ab", "a.b", "b/a", "a/b.c/d"])


def test_the_number_of_artifacts_is_limited() -> None:
    check_artifact_paths(f"part/{index}" for index in range(paths.MAX_PATHS))
    with pytest.raises(paths.TooManyArtifactsError):
        check_artifact_paths(f"part/{index}" for index in range(paths.MAX_PATHS + 1))
