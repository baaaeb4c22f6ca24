# Fails if the objects of amx lack an instruction of tile registers: no other test sees that on a machine without them.
# cmake -DOBJDUMP=<objdump> -DOBJECTS=<object>,<object>... -P check_tiles.cmake
string(REPLACE "," ";" OBJECTS "${OBJECTS}")
execute_process(COMMAND ${OBJDUMP} --disassemble --no-show-raw-insn ${OBJECTS} OUTPUT_VARIABLE code COMMAND_ERROR_IS_FATAL ANY)
foreach(instruction ldtilecfg tilerelease tilezero tileloadd tilestored tdpbsud tdpbssd tdpbf16ps)
  if(NOT code MATCHES "[ \t]${instruction}[ \t\n]")
    message(FATAL_ERROR "the kernels of amx have no instruction ${instruction}")
  endif()
endforeach()
