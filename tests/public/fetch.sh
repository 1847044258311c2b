#!/bin/sh
# fetch.sh DIRECTORY: downloads the Debian packages that hold the archives of tests/public (60 MB); installs nothing.
# The upstream versions are those in tests/public/archives.py.
set -eu
mkdir -p "$1/lists/partial"
cd "$1"
rm -f -- *.deb *.orig.tar.* *.debian.tar.* *.dsc
# Debian's own repositories of this machine, as sources; they get lists of their own, so that apt's configuration stays as it is.
apt-get indextargets --format 'deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Component: main' 'Origin: Debian' >sources.list
apt() { apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"; }
apt download libpython3.11-testsuite golang-1.19-src
set -- -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists"
apt "$@" update
apt "$@" source --download-only --only-source libarchive libcommons-compress-java
