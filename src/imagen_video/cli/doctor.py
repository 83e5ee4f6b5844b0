"""imagen-video doctor."""

import sys
from dataclasses import dataclass


@dataclass
class Doctor:
    """Say whether this installation works, part by part, and what to do where it does not.

    Ends with 0 if videos can be made, whatever optional parts are missing, and with 1 if not.
    """


def run_doctor(_: Doctor) -> None:
    from imagen_video.doctor import examine

    works = True
    for finding in examine():
        print(finding, flush=True)
        works = works and (finding.state == "ok" or not finding.core)
    print("videos can be made" if works else "videos cannot be made until that is put right")
    if not works:
        sys.exit(1)
