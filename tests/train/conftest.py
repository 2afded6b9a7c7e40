"""Training tests draw no report, which takes longer than the training; unless they are about it."""

import pytest


@pytest.fixture(autouse=True)
def report(request, monkeypatch):
    """Replaces the report by nothing, except in tests that ask for the fixture `draws_report`."""
    if "draws_report" not in request.fixturenames:
        from oclr_jax.train.record.report import TrainingReport

        monkeypatch.setattr(TrainingReport, "write", lambda *arguments: None)


@pytest.fixture
def draws_report() -> None:
    """For tests that look at the report or its curves."""
