# mmfeat serve, for an exported model:
#   docker build -t mmfeat-serve .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/model:/model:ro" mmfeat-serve
FROM python:3.12-slim AS build
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY mmfeat mmfeat
COPY cli cli
# torch without CUDA: a tenth of the size
RUN python -m venv /opt/mmfeat && /opt/mmfeat/bin/pip install --no-cache-dir \
    --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt '.[serve]' 'onnxruntime>=1.20'

FROM python:3.12-slim
RUN useradd --system --create-home --uid 10001 mmfeat
COPY --from=build /opt/mmfeat /opt/mmfeat
ENV PATH=/opt/mmfeat/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER mmfeat
WORKDIR /home/mmfeat
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["mmfeat", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
