# Sourced in the project's root: puts the project on Python's path, and for the calling script's
# run alone the wheels in .whl/, if there are any, for a machine without a registry.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if compgen -G '.whl/*.whl' > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target "$site" .whl/*.whl
  PYTHONPATH="$PYTHONPATH:$site"
fi
