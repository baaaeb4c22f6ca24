#define POCKETVLM_ISA avxvnni
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
