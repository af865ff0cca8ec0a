# dcnlab with its extras, for CPUs and NVIDIA GPUs: torch's wheels bring CUDA 13, the host its driver.
#   docker build --tag dcnlab .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" --volume "$PWD:/work" dcnlab fit classification/quickstart
FROM python:3.11-slim-trixie

COPY . /opt/dcnlab
RUN python -m pip install --no-cache-dir --constraint /opt/dcnlab/constraints.txt \
        '/opt/dcnlab[cuda13,slurm,tensorboard,onnx,pretrained]'

# Any user may run it: caches of compiled kernels and plots go where everyone can write.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["dcnlab"]
CMD ["--help"]
