# Compiler and linker flags, by flavour. CMAKE_BUILD_TYPE stays empty, because CMake's own build
# types define NDEBUG, and assertions are on everywhere.

set(THOLE_FLAVOURS release dev asan tsan fuzz coverage)
set(THOLE_FLAVOUR release CACHE STRING "One of: ${THOLE_FLAVOURS}")
set_property(CACHE THOLE_FLAVOUR PROPERTY STRINGS ${THOLE_FLAVOURS})
if(NOT THOLE_FLAVOUR IN_LIST THOLE_FLAVOURS)
  message(FATAL_ERROR "THOLE_FLAVOUR is '${THOLE_FLAVOUR}', must be one of: ${THOLE_FLAVOURS}")
endif()

foreach(config DEBUG RELEASE RELWITHDEBINFO MINSIZEREL)
  string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_${config} "${CMAKE_C_FLAGS_${config}}")
endforeach()

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

add_compile_definitions(_GNU_SOURCE)
add_compile_options(-g -fno-omit-frame-pointer)
add_link_options(-Wl,--as-needed)

if(THOLE_FLAVOUR STREQUAL "release")
  add_compile_options(-O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
else()
  add_compile_options(-U_FORTIFY_SOURCE)
  add_compile_definitions(THOLE_SLOW_ASSERTS)
endif()

set(thole_asan -fsanitize=address,undefined -fno-sanitize-recover=all)
if(THOLE_FLAVOUR STREQUAL "dev")
  add_compile_options(-O1)
elseif(THOLE_FLAVOUR STREQUAL "asan")
  add_compile_options(-O1 ${thole_asan})
  add_link_options(${thole_asan})
elseif(THOLE_FLAVOUR STREQUAL "tsan")
  add_compile_options(-O1 -fsanitize=thread)
  add_link_options(-fsanitize=thread)
elseif(THOLE_FLAVOUR STREQUAL "fuzz")
  if(NOT CMAKE_C_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "the fuzz flavour needs clang (libFuzzer); use: cmake --preset fuzz")
  endif()
  add_compile_options(-O1 ${thole_asan} -fsanitize=fuzzer-no-link)
  add_link_options(${thole_asan})
elseif(THOLE_FLAVOUR STREQUAL "coverage")
  add_compile_options(-O0 --coverage)
  add_link_options(--coverage)
endif()

# For our own code; generated code and third-party headers are exempt.
set(THOLE_WARNINGS
    -Wall
    -Wextra
    -Wshadow
    -Wconversion
    -Wstrict-prototypes
    -Wmissing-prototypes
    -Wformat=2
    -Wundef
    -Wvla
    -Wswitch-enum
    -Wimplicit-fallthrough
    -Wnull-dereference
    -Wwrite-strings
    -Werror)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU" AND THOLE_FLAVOUR MATCHES "asan|tsan|coverage")
  # gcc's flow warnings follow paths that exist only in the instrumentation.
  list(APPEND THOLE_WARNINGS -Wno-null-dereference -Wno-maybe-uninitialized -Wno-restrict)
endif()

# What a test needs in its environment and in front of its command line.
set(THOLE_TEST_ENVIRONMENT "")
set(THOLE_TEST_LAUNCHER "")
if(THOLE_FLAVOUR MATCHES "asan|fuzz")
  # The link order is not checked, because the shims of the integration tests are preloaded.
  list(APPEND THOLE_TEST_ENVIRONMENT
       "ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:verify_asan_link_order=0"
       "UBSAN_OPTIONS=print_stacktrace=1")
elseif(THOLE_FLAVOUR STREQUAL "tsan")
  # gRPC and RocksDB are not instrumented: what they do between themselves is not ours to judge.
  list(APPEND THOLE_TEST_ENVIRONMENT
       "TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:second_deadlock_stack=1")
endif()
if(THOLE_FLAVOUR MATCHES "asan|tsan|fuzz")
  # This generation of sanitizers cannot always place its shadow memory when the kernel randomises
  # addresses over many bits.
  execute_process(COMMAND setarch -R true RESULT_VARIABLE setarch_failed OUTPUT_QUIET ERROR_QUIET)
  if(NOT setarch_failed)
    set(THOLE_TEST_LAUNCHER setarch -R)
  endif()
endif()

# The linker looks through all libraries again until nothing is missing: the parts of a host call each
# other, and CMake's order is right for libraries without cycles only.
foreach(rule LINK_EXECUTABLE CREATE_SHARED_LIBRARY CREATE_SHARED_MODULE)
  string(REPLACE "<LINK_LIBRARIES>" "-Wl,--start-group <LINK_LIBRARIES> -Wl,--end-group"
                 CMAKE_C_${rule} "${CMAKE_C_${rule}}")
endforeach()
