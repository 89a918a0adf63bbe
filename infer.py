"""Run trained nets over files, folders and videos: `python infer.py inspect parts/ -o out …`."""

from vision.cli import infer

if __name__ == "__main__":
    raise SystemExit(infer())
