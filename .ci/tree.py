"""The files that the checks look at: tracked ones, and new ones that git does not ignore."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What clang's tools get beside the build's own flags. Without optimization glibc's headers are shorter, which saves
# a fifth of the time that a file takes to be parsed.
CLANG_ARGS = tuple(f"--extra-arg={flag}" for flag in ("-Wno-unknown-warning-option", "-U_FORTIFY_SOURCE", "-O0"))
CODE_FOLDERS = ("agent", "base", "bus", "hostctl", "integration", "proto", "registry", "shards")


def files(*git_options):
    """Paths relative to ROOT, sorted."""
    options = git_options or ("--cached", "--others", "--exclude-standard")
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True)
    if listed.returncode == 0:
        paths = set(listed.stdout.decode().split("\0")) - {""}
    else:  # not a git checkout, such as an unpacked archive
        paths = set()
        for folder, folders, names in os.walk(ROOT):
            folders[:] = [f for f in folders if f not in (".git", "build", "__pycache__")]
            paths.update(os.path.relpath(os.path.join(folder, name), ROOT) for name in names)
    return sorted(p for p in paths if os.path.isfile(os.path.join(ROOT, p)))


def c_files():
    return [p for p in files() if p.endswith((".c", ".h")) and p.split("/")[0] in CODE_FOLDERS]


def is_test(path):
    return "/test/" in path or path.startswith("integration/")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def finish(name, problems, checked):
    for problem in problems:
        print(problem)
    print(f"{name}: {len(problems)} problem(s) in {checked} files")
    sys.exit(1 if problems else 0)
