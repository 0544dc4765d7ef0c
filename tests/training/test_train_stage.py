import time

from conftest import SHORT
from filelock import FileLock

RUN = "runs/digits/hbn"


def test_the_results_are_in_place_while_the_end_of_a_training_waits_for_mlflow(project):
    project.edit(SHORT | {"tracking.interval_s": 0.001})
    for stage, *arguments in (["resolve"], ["download", "digits"], ["split", "digits"]):
        project.stage(stage, *arguments)
    lock = FileLock(project.folder / "mlflow.db.lock")
    with lock:
        training = project.start("python", "-m", "stages.train", "digits", "hbn")
        try:
            while not (project.folder / RUN / "provenance.json").exists():
                assert training.poll() is None, training.returncode
                time.sleep(0.1)
            assert (project.folder / RUN / "models/seed-0.safetensors").exists()
            assert (project.folder / RUN / "history.csv").exists()
            assert training.poll() is None  # waits
            lock.release()
            assert training.wait() == 0
        finally:
            project.stop(training)
