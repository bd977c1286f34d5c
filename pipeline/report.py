from pathlib import Path


def write_report(job):
    return job.report_path
