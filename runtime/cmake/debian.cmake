# Debian packages of the library, its headers and rexit-run, by CPack: `make deb`.
# Only for -DCMAKE_INSTALL_PREFIX=/usr.
set(CPACK_GENERATOR DEB)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL library development)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CONTACT "rexit developers <rexit@localhost>" CACHE STRING "Maintainer of the Debian packages")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ
  WORLD_EXECUTE)

set(name librexit${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(same "${name} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${name})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
# Opened at run time: any version from ort_api_version (runtime/src/backends/onnxruntime/ort_api.hpp) on.
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SUGGESTS "libonnxruntime1.21")
set(CPACK_COMPONENT_LIBRARY_DESCRIPTION "early-exit LLM recommender: the library
Scores a slate of candidate items for one user with a language model cut
into one ONNX graph per exit, and stops each candidate at the first exit
that is confident about it. ONNX Runtime is opened at run time.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME librexit-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${same}")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "early-exit LLM recommender: headers
rexit.h for C, rexit.hpp for C++17, find_package(rexit) for CMake, and a
pkg-config file.")
if(REXIT_PROGRAM)
  list(APPEND CPACK_COMPONENTS_ALL program)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME rexit-run)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION utils)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS "${same}")
  set(CPACK_COMPONENT_PROGRAM_DESCRIPTION "early-exit LLM recommender: scores without Python
Verifies bundles, and answers requests as lines of JSON on stdin and stdout.")
endif()

# ldconfig by dpkg's trigger, and what programs linked with the library depend on.
file(WRITE ${PROJECT_BINARY_DIR}/debian/triggers "activate-noawait ldconfig\n")
file(WRITE ${PROJECT_BINARY_DIR}/debian/shlibs "librexit ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} ${same}\n")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA ${PROJECT_BINARY_DIR}/debian/triggers ${PROJECT_BINARY_DIR}/debian/shlibs)

# Required by Debian in every package.
string(TIMESTAMP year %Y UTC)
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${PROJECT_BINARY_DIR}/debian/changelog "rexit (${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}) unstable; urgency=medium

  * Built from upstream's source; its CHANGELOG.md says what changed.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
execute_process(COMMAND gzip --best --no-name --force --suffix .Debian.gz ${PROJECT_BINARY_DIR}/debian/changelog
  COMMAND_ERROR_IS_FATAL ANY)
file(WRITE ${PROJECT_BINARY_DIR}/debian/copyright "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: rexit

Files: *
Copyright: ${year} the rexit authors
License: Apache-2.0
 On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.
")
foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} upper)
  install(FILES ${PROJECT_BINARY_DIR}/debian/copyright ${PROJECT_BINARY_DIR}/debian/changelog.Debian.gz COMPONENT ${component}
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME})
endforeach()
include(CPack)
