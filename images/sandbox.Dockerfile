# The last layer of every sandbox image: the runner. A layer of its own, so that a change to the runner
# rebuilds in a second and needs neither apt nor wheels.
ARG PARENT
FROM ${PARENT}
COPY runner/ /opt/sandbox/
RUN chmod -R u=rwX,go=rX /opt/sandbox && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/sandbox
USER 10000:10000
ENTRYPOINT ["/usr/bin/python3", "-I", "-u", "/opt/sandbox/runner.py"]
