# Third-party libraries as interface targets thole_dep_<name>. All come from Debian packages,
# see ../install-packages. Only the folders named in ../check-deps may include their headers.

find_package(PkgConfig REQUIRED)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

function(thole_dep name)
  add_library(thole_dep_${name} INTERFACE)
  target_link_libraries(thole_dep_${name} INTERFACE ${ARGN})
endfunction()

function(thole_dep_pkg name module)
  pkg_check_modules(${name}_pkg REQUIRED IMPORTED_TARGET ${module})
  thole_dep(${name} PkgConfig::${name}_pkg)
endfunction()

function(thole_dep_find name)
  set(libraries "")
  foreach(library IN LISTS ARGN)
    find_library(THOLE_LIB_${library} ${library} REQUIRED)
    list(APPEND libraries "${THOLE_LIB_${library}}")
  endforeach()
  thole_dep(${name} ${libraries})
endfunction()

# Debian's gRPC package file for CMake insists on the C++ libraries; the two C ones are enough.
thole_dep_find(grpc grpc gpr)
thole_dep_pkg(bsd libbsd)
thole_dep_pkg(crypt libcrypt)
thole_dep_pkg(md libmd)
thole_dep_pkg(cmocka cmocka)
thole_dep_pkg(xxhash libxxhash)
thole_dep_pkg(yaml yaml-0.1)
thole_dep_pkg(microhttpd libmicrohttpd)
thole_dep_pkg(systemd libsystemd)
thole_dep_pkg(smartcols smartcols)
thole_dep_pkg(openssl openssl)

# RocksDB: executables link the static library, which is 1.4 times as fast (no PLT and no TLS call
# per key compare). Debian's static library is not position independent, so a shared library of
# ours has to take the shared one. The type is that of the target which is linked in the end.
find_library(THOLE_LIB_rocksdb_static librocksdb.a REQUIRED)
find_library(THOLE_LIB_rocksdb_shared NAMES librocksdb.so REQUIRED)
set(rocksdb_static "${THOLE_LIB_rocksdb_static}")
foreach(library snappy z bz2 lz4 zstd)
  find_library(THOLE_LIB_${library} ${library} REQUIRED)
  list(APPEND rocksdb_static "${THOLE_LIB_${library}}")
endforeach()
list(APPEND rocksdb_static -lstdc++ -lm Threads::Threads ${CMAKE_DL_LIBS})
set(is_shared "$<STREQUAL:$<TARGET_PROPERTY:TYPE>,SHARED_LIBRARY>")
thole_dep(rocksdb "$<IF:${is_shared},${THOLE_LIB_rocksdb_shared},${rocksdb_static}>")

# upb: the run time is in libgrpc's package; headers and generators come from upb-toolchain.
set(THOLE_UPB_DIR "${PROJECT_SOURCE_DIR}/build/upb"
    CACHE PATH "Where upb's headers and generators are kept; shared by all presets")
execute_process(COMMAND "${PROJECT_SOURCE_DIR}/.ci/upb-toolchain" "${THOLE_UPB_DIR}"
                COMMAND_ERROR_IS_FATAL ANY)
thole_dep_find(upb upb)
target_include_directories(thole_dep_upb SYSTEM INTERFACE "${THOLE_UPB_DIR}/include")
# Accessors are inline and take what a constructor returned, which the compiler then thinks may be
# NULL; our arenas do not run out of memory quietly. clang-tidy's analyser still looks for such paths.
target_compile_options(thole_dep_upb INTERFACE -Wno-null-dereference)
find_program(THOLE_PROTOC protoc REQUIRED)
find_path(THOLE_PROTOBUF_INCLUDE google/protobuf/any.proto REQUIRED)
