# shellcheck shell=bash
# Debian package names, read by scripts/bootstrap.
# Seen to be enough on Debian 12. Never dbus-x11: without a session bus it starts a stray
# dbus-daemon that outlives the test.

# shellcheck disable=SC2034
RUN_PACKAGES=(
  # the window and the tray
  gir1.2-gtk-3.0 gir1.2-webkit2-4.1 gir1.2-ayatanaappindicator3-0.1
  # .venv, and PyGObject and pycairo, which PyPI has as source only
  python3-venv python3-dev libgirepository1.0-dev libcairo2-dev pkg-config gcc
  # llama.cpp from source
  g++ cmake ninja-build ccache
)

# shellcheck disable=SC2034
PACKAGE_PACKAGES=(
  # strip; the AppImage's file system; a clean root to try the .deb in
  binutils dpkg-dev squashfs-tools debootstrap debian-archive-keyring
  # what says whether the desktop entry and the metainfo are right
  desktop-file-utils appstream
  # a display to try the build on
  xvfb xauth dbus
)

# shellcheck disable=SC2034
TEST_PACKAGES=(
  # a private display and session bus, and something to look and click with
  xvfb xauth x11-utils scrot xdotool dbus fonts-dejavu-core
  # the tray menu drawn for docs/images
  gir1.2-dbusmenu-gtk3-0.4
  # llama.cpp's Vulkan backend, and a device in software to run it on
  glslc libvulkan-dev spirv-headers mesa-vulkan-drivers vulkan-tools
  # a real registry for models in Ollama's layout; where services may start, Debian starts one too
  docker-registry
  # a keychain for the token of Hugging Face
  gnome-keyring
  # the page in a second engine, without pywebview
  chromium
  # whether the man page is right
  groff-base
  # what the Qt window engine from PyPI links and does not bring
  libasound2 libdbus-1-3 libdrm2 libegl1 libfontconfig1 libgbm1 libgl1 libnspr4 libnss3
  libxcb-cursor0 libxcb-dri3-0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0
  libxcb-render-util0 libxcb-shape0 libxcb-sync1 libxcb-xfixes0 libxcb-xkb1
  libxcomposite1 libxdamage1 libxkbcommon-x11-0 libxkbcommon0 libxkbfile1 libxrandr2 libxtst6
)
