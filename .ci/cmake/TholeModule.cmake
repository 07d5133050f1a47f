# thole_module, thole_test, thole_fuzz and thole_folder: how every folder declares what it builds.
#
# DEPS are names without prefix (base, raft, dep_grpc ...) or, if they look like a flag, a path or
# an imported target, anything that target_link_libraries takes.

function(thole_resolve_deps out)
  set(resolved "")
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "^(thole_|libthole|-|/|.*::|\\$<)")
      list(APPEND resolved "${dep}")
    else()
      list(APPEND resolved "thole_${dep}")
    endif()
  endforeach()
  set(${out} "${resolved}" PARENT_SCOPE)
endfunction()

function(thole_own_code target)
  target_compile_options(${target} PRIVATE ${THOLE_WARNINGS})
endfunction()

# thole_module(<name> SOURCES <file>... DEPS <name>... [INCLUDES <dir>...])
#
# The static library thole_<name>, position independent, with the repository's root as include
# directory. Without sources it is an interface library, so that an empty folder configures.
function(thole_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS;INCLUDES")
  thole_resolve_deps(deps ${arg_DEPS})
  if(arg_SOURCES)
    add_library(thole_${name} STATIC ${arg_SOURCES})
    set(scope PUBLIC)
    thole_own_code(thole_${name})
  else()
    add_library(thole_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(thole_${name} ${scope} "${PROJECT_SOURCE_DIR}" ${arg_INCLUDES})
  target_link_libraries(thole_${name} ${scope} ${deps} Threads::Threads)
endfunction()

# thole_executable(<target> SOURCES <file>... DEPS <name>... [OUTPUT_NAME <name>])
function(thole_executable target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "OUTPUT_NAME" "SOURCES;DEPS")
  thole_resolve_deps(deps ${arg_DEPS})
  add_executable(${target} ${arg_SOURCES})
  thole_own_code(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE ${deps} Threads::Threads)
  if(arg_OUTPUT_NAME)
    set_target_properties(${target} PROPERTIES OUTPUT_NAME "${arg_OUTPUT_NAME}")
  endif()
endfunction()

# thole_add_test(<name> COMMAND <arg>... [TIMEOUT <s>] [LABELS <label>...] [LOCK <name>]): a ctest
# test with the environment and the launcher of this flavour. LOCK: not beside others of that lock.
# Tests that may take long are started first, so that no long one is left for the end.
function(thole_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT;LOCK" "COMMAND;LABELS;ENVIRONMENT")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 240) # against hangs; some take 20 s of a free core
  endif()
  if(THOLE_FLAVOUR MATCHES "asan|tsan|fuzz|coverage")
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 4")
  endif()
  add_test(NAME ${name} COMMAND ${THOLE_TEST_LAUNCHER} ${arg_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} COST ${arg_TIMEOUT}
                       LABELS "${arg_LABELS}" RESOURCE_LOCK "${arg_LOCK}"
                       ENVIRONMENT "${THOLE_TEST_ENVIRONMENT};${arg_ENVIRONMENT}")
endfunction()

# thole_test(<name> SOURCES <file>... DEPS <name>... [TIMEOUT <s>] [LABELS <label>...])
#
# A cmocka executable and a ctest test of the same name.
function(thole_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;DEPS;LABELS")
  if(TARGET ${name})
    message(FATAL_ERROR "there is already a test ${name}: test file names are unique in the project")
  endif()
  thole_executable(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS} dep_cmocka)
  # The compiler does not see that cmocka's assertions do not return.
  target_compile_options(${name} PRIVATE -Wno-null-dereference $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  thole_add_test(${name} COMMAND $<TARGET_FILE:${name}> TIMEOUT "${arg_TIMEOUT}"
                 LABELS ${arg_LABELS})
  # Tests find golden files and the like by this, not by the directory they are started in.
  target_compile_definitions(${name} PRIVATE
                             "THOLE_TEST_SOURCE_DIR=\"${CMAKE_CURRENT_SOURCE_DIR}/test\"")
endfunction()

if(THOLE_FLAVOUR STREQUAL "fuzz")
  add_custom_target(fuzzers) # all fuzz targets
endif()

# thole_fuzz(<name> SOURCES <file>... DEPS <name>... [CORPUS <dir>] [SECONDS <s>])
#
# A libFuzzer target, in the fuzz flavour only; its ctest test fuzzes for SECONDS (default 10).
function(thole_fuzz name)
  if(NOT THOLE_FLAVOUR STREQUAL "fuzz")
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "CORPUS;SECONDS" "SOURCES;DEPS")
  thole_executable(${name} SOURCES ${arg_SOURCES} DEPS ${arg_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzzers ${name})
  if(NOT arg_SECONDS)
    set(arg_SECONDS 10)
  endif()
  # The first directory receives what libFuzzer finds; the committed corpus is only read.
  set(found "${CMAKE_CURRENT_BINARY_DIR}/${name}.corpus")
  file(MAKE_DIRECTORY "${found}")
  thole_add_test(${name} LABELS fuzz
                 COMMAND $<TARGET_FILE:${name}> -max_total_time=${arg_SECONDS} -rss_limit_mb=2048
                         -print_final_stats=1 "-artifact_prefix=${found}/" "${found}" ${arg_CORPUS})
endfunction()

# thole_folder(<name> [DIRS <dir>...] [EXCLUDE <file>...] DEPS <name>... [TEST_DEPS <name>...]
#              [TIMEOUT <s>])
#
# A folder in the usual shape: *.c (and <dir>/*.c) become thole_<name>; each test/test_*.c a test,
# each test/fuzz_*.c a fuzz target (its corpus in test/corpus/<the part after fuzz_>/); the other
# test/*.c are helpers, linked into all of them. New files are picked up by themselves. If there is
# a folder include/, the public headers, it is on the include path of everything that depends on it.
function(thole_folder name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "DIRS;EXCLUDE;DEPS;TEST_DEPS")
  set(patterns *.c)
  set(tests test/test_*.c)
  set(all_tests test/*.c)
  set(fuzzers test/fuzz_*.c)
  foreach(dir IN LISTS arg_DIRS)
    list(APPEND patterns ${dir}/*.c)
    list(APPEND tests ${dir}/test/test_*.c)
    list(APPEND all_tests ${dir}/test/*.c)
    list(APPEND fuzzers ${dir}/test/fuzz_*.c)
  endforeach()
  foreach(set patterns tests all_tests fuzzers)
    file(GLOB ${set} RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" CONFIGURE_DEPENDS ${${set}})
  endforeach()
  set(helpers ${all_tests})
  list(REMOVE_ITEM helpers ${tests} ${fuzzers})
  if(arg_EXCLUDE)
    list(REMOVE_ITEM patterns ${arg_EXCLUDE})
  endif()
  set(includes "")
  if(IS_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/include")
    set(includes INCLUDES "${CMAKE_CURRENT_SOURCE_DIR}/include")
  endif()
  thole_module(${name} SOURCES ${patterns} DEPS ${arg_DEPS} ${includes})
  set(test_deps ${name} ${arg_TEST_DEPS})
  if(helpers)
    thole_module(${name}_testlib SOURCES ${helpers} DEPS ${test_deps} dep_cmocka)
    target_compile_options(thole_${name}_testlib PRIVATE -Wno-null-dereference
                           $<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    list(PREPEND test_deps ${name}_testlib)
  endif()
  foreach(test IN LISTS tests)
    get_filename_component(base "${test}" NAME_WE)
    thole_test(${base} SOURCES ${test} DEPS ${test_deps} TIMEOUT "${arg_TIMEOUT}" LABELS unit ${name})
  endforeach()
  foreach(fuzzer IN LISTS fuzzers)
    get_filename_component(base "${fuzzer}" NAME_WE)
    get_filename_component(dir "${fuzzer}" DIRECTORY)
    string(REGEX REPLACE "^fuzz_" "" unit "${base}")
    set(corpus "${CMAKE_CURRENT_SOURCE_DIR}/${dir}/corpus/${unit}")
    if(NOT IS_DIRECTORY "${corpus}")
      set(corpus "")
    endif()
    thole_fuzz(${base} SOURCES ${fuzzer} DEPS ${test_deps} CORPUS "${corpus}")
  endforeach()
endfunction()
