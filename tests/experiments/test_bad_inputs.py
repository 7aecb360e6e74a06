"""A mistake costs one line, exit status 1 and nothing else, whichever launcher it is made with."""

import os
import re

import pytest
from bad_inputs import BROKEN_LINES, make_files
from launchers import run_launchers

TOY = ('--teacher={teacher}', '--operands=2', '--high=9', '--compilation_cache=')
ARITHMETIC = TOY[1:3]  # not of problems that are given
RUN = (*TOY, '--workdir={new}', '--least_accuracy=0')  # the toy teacher answers nothing right
BATCH = '--batch_size=16'  # of a share of 29
SOUND = {
    'discover': RUN,
    'distill': (*RUN[:-1], BATCH, '--arm=kd'),
    'compare_arms': (*RUN, BATCH),
    # Of the 32 neurons of its student 1 % are none.
    'pipeline': (*RUN, BATCH, '--smallest_size=.05'),
    'accuracy': (*TOY[:2], '--ranges=0:9', TOY[-1]),
    'evaluate': (*TOY, '--circuits={circuits}', '--output={new}'),
    'plan': (*TOY[:-1], BATCH, '--target=cpu', '--nolargest_batch', '--output={new}'),
    'train_teacher': (*TOY[1:], '--workdir={new}'),
    'settle': ('--workdir={new}', '--compilation_cache='),
    'tune': (*RUN, '--grid={grid}'),
    'twins': ('--workdir={new}', '--compilation_cache='),
    'convert': ('--source={teacher}', '--target={new}', '--compilation_cache='),
    'compare': (),
    'report': ('--workdir={new}',),
    'benchmark': ('--suite=checkpoint_memory', '--output={new}'),
}
# Launcher, flags that follow sound ones, and words that the line must hold.
PROBLEMS = [
    ('discover', '--operators=+,%', "'%' is unknown", 'choose from'),
    ('pipeline', '--operators=', 'name at least one'),
    ('distill', '--operators=+,+', 'each of them once'),
    ('evaluate', '--operands=1', 'operands=1', '2 or 3'),
    ('plan', '--operands=4', 'operands=4', '2 or 3'),
    ('train_teacher', '--operands=two', '--operands=two', 'write an integer'),
    ('compare_arms', '--low=-1', 'low=-1', 'start at 0'),
    ('discover', '--low=5 --high=4', 'high=4 is below low=5'),
    ('pipeline', '--high=1000000', 'high=1000000'),
    ('discover', '--high=21', '21 is not one token', '0 to 20'),
    ('train_teacher', '--high=120', '100 is not one token'),
    ('distill', '--answer_low=500', 'no problem', '500'),
    ('evaluate', '--answer_high=-1', 'answer_high=-1 is below'),
    ('plan', '--answer_low=9 --answer_high=3', 'answer_high=3 is below answer_low=9'),
    ('discover', '--answer_tokens=0', 'answer_tokens=0', 'at least 1'),
    ('discover', '--shots=4', 'shots=4', 'such as a line break'),
    ('discover', '--shots=5000 --answer_end=;', 'shots=5000 of', 'leave none to ask'),
    ('accuracy', '--ranges=3', 'ranges=3', 'LOW:HIGH'),
    ('accuracy', '--shot_counts=x', 'shot_counts=x', 'integers'),
    ('accuracy', '--ranges=9:0', 'high=0 is below low=9'),
    ('accuracy', '--output={file}', 'holds something else than a table of accuracies'),
    ('accuracy', '--high=99', 'high=99 is not read here', '--ranges'),
    ('accuracy', '--shots=3', 'shots=3 is not read here', '--shot_counts'),
    ('compare_arms', '--num_problems=0', 'num_problems=0', '1 to'),
    ('train_teacher', '--num_problems=-5', 'num_problems=-5', '1 to'),
    ('pipeline', '--num_problems=1e3', 'num_problems=1e3'),
    ('discover', '--num_problems=99999999', 'num_problems=99999999', '1 to'),
    ('discover', '--num_problems=1', 'no example fits'),
    ('train_teacher', '--operands=3 --high=99 --operators=+,-,*,/', 'set num_problems'),
    ('distill', '--share=0', 'share=0', 'above 0'),
    ('discover', '--share=-1', 'share=-1'),
    ('compare_arms', '--share=1.5', 'share=1.5'),
    ('pipeline', '--share=nan', 'share=nan'),
    ('train_teacher', '--share=1e-9', 'take larger parts'),
    ('distill', '--test=0', 'test=0'),
    ('evaluate', '--test=1', 'test=1'),
    ('plan', '--test=nan', 'test=nan'),
    ('discover', '--test=inf', 'test=inf'),
    ('pipeline', '--test=1e-9', 'leave 0 to test'),
    ('discover', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('distill', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('evaluate', '--split_seed=-7', 'split_seed=-7', 'negative'),
    ('pipeline', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('compare_arms', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('plan', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('train_teacher', '--split_seed=-1', 'split_seed=-1', 'negative'),
    ('discover', '--split_seed=1.5', '--split_seed=1.5', 'write an integer'),
    ('train_teacher', '--plant_shared=3', 'plant_shared=3 is of --plant=circuits'),
    ('train_teacher', '--plant=towers --plant_specific=3', 'plant_specific=3 is of --plant'),
    ('train_teacher', '--plant=circuits --plant_classes=size', 'size: these problems have no such'),
    ('train_teacher', '--plant=circuits --operators=+', 'has one value on these problems'),
    ('train_teacher', '--plant=circuits --plant_shared=500', 'take 524 neurons of a layer'),
    ('train_teacher', '--plant=circuits --plant_specific=0', 'set both to 0 to plant nothing'),
    ('train_teacher', '--plant=circuits --plant_seed=-1', 'plant_seed=-1 must not be negative'),
    ('train_teacher', '--plant=circuits --plant_floor=0', 'plant_floor=0.0 must be above 0'),
    ('train_teacher', '--plant=circuits --microbatches=2', 'the problems of a whole batch'),
    ('train_teacher', '--plant=circuits --batch_size=3', 'batch_size=3 is too small to exchange'),
    ('evaluate', '--ground_truth', 'ground_truth.json does not exist', 'train_teacher --plant'),
    ('evaluate', '--ground_truth={foreign}', 'ground_truth.json does not exist'),
    ('settle', '--protocol=all', '--protocol=all'),
    ('settle', '--share=.5', 'share=0.5: protocol=planted has its teacher and its problems frozen'),
    ('settle', '--protocol=embedded --teacher=x', 'teacher=x: protocol=embedded'),
    ('settle', '--protocol=llama', 'protocol=llama needs a checkpoint'),
    ('settle', '--gates={foreign}', 'protocol=planted is the gates themselves'),
    ('settle', '--protocol=embedded --gates={foreign}', 'holds no settled.json'),
    ('settle', '--protocol=embedded --seeds=0,9', 'seeds=0,9: name some of 0,1,2,3,4'),
    ('settle', '--seeds=one', 'seeds=one: write integers'),
    ('tune', '--grid={folder}/none', 'none cannot be read'),
    ('tune', '--grid={file}', "line 1: 'mine': write --FLAG=VALUE"),
    ('tune', '--grid={grid_value}', 'grid_value, line 2: ', 'noise=-1'),
    ('tune', '--grid={grid_nothing}', 'nothing to choose from'),
    ('tune', '--validation_share=1', 'validation_share=1.0', 'below 1'),
    ('tune', '--seeds=a', 'seeds=a', 'write numbers'),
    ('twins', '--teachers=7', 'teachers=7', 'name some of 0,1,2'),
    ('twins', '--teachers=0,0', 'teachers=0,0', 'each of them once'),
    ('twins', '--only=lookup-0', 'only=lookup-0', 'choose from lookup_second-0'),
    ('compare_arms', '--share_high=x', 'share_high=x: write integers'),
    ('pipeline', '--share_high=1,2,3', 'share_high=1,2,3 has 3 limits', '2 operands'),
    ('compare_arms', '--share_high=9', 'leaves no problem held out beyond'),
    ('pipeline', '--share_where=size=odd', "have no label 'size'", 'parity'),
    ('compare_arms', '--rival=lookup', 'rival=lookup', 'set share_where or share_high'),
    ('compare_arms', '--rival=lookup --share_high=4', 'rival=lookup has other prompts'),
    ('compare_arms', '--training_problems=9999', 'training_problems=9999: the share has'),
    ('pipeline', '--training_problems=few', 'training_problems=few: write integers'),
    ('compare_arms', '--training_problems=2', 'batch_size=2 is too small'),
    ('compare_arms', '--arm_circuits=planted', 'ground_truth.json does not exist'),
    ('compare_arms', '--text={folder}/none', 'text={folder}/none cannot be read'),
    ('compare_arms', '--pool={foreign}', 'foreign holds no table of arms'),
    ('pipeline', '--other_tasks=sudoku', 'sudoku cannot be read'),
]
TASK_FILES = [
    ('discover', '--task=sudoku', "there is no task 'sudoku'", 'mod_113'),
    ('train_teacher', '--task=mod_113 --task_file={task_empty}', 'give one of them'),
    ('discover', '--task=mod_113 --operands=3', 'operands=3 is of arithmetic', 'task=mod_113'),
    ('discover', '--task=lookup --shots=2 --answer_end=;', 'shots=2', 'of arithmetic alone'),
    ('pipeline', '--studies=astrology', "there is no study 'astrology'", 'num_classes'),
    ('discover', '--plugins=no.such.module', 'plugins=no.such.module', "No module named 'no'"),
    ('discover', '--plugins=.mine', 'plugins=.mine cannot be imported', 'relative import'),
    ('discover', '--task_file={folder}/none.jsonl', 'none.jsonl cannot be read'),
    ('pipeline', '--task_file={folder}', 'cannot be read'),
    ('distill', '--task_file={task_empty}', 'has no lines'),
    ('train_teacher', '--task_file={task_binary}', 'task_binary, line 1'),
    ('discover', '--task_file={task_words}', 'no example fits the tokenizer', 'left out because'),
    ('pipeline', '--task_file={task_alike}', 'no example fits', 'no other problem'),
    (
        'distill',
        '--task_file={task_answers} --answer_tokens=3',
        'distillation knows answers of one',
    ),
    ('discover', '--task_file={task_answers} --answer_tokens=3 --objective=causal', 'of one token'),
    ('evaluate', '--task_file=', 'task= names none'),
]
for at, (name, (_, words)) in enumerate(BROKEN_LINES.items()):
    launcher = ('discover', 'distill', 'pipeline', 'train_teacher', 'compare_arms')[at % 5]
    TASK_FILES.append((launcher, f'--task_file={{line_{name}}}', f'line_{name}, line 4: ', words))
MODELS = [
    ('discover', '--teacher={folder}/none', 'no folder', 'none'),
    ('discover', '--teacher=', 'teacher= names none'),
    ('distill', '--student=', 'student= names none'),
    ('train_teacher', '--init=', 'names none'),
    ('distill', '--teacher={file}', 'is no folder'),
    ('discover', '--teacher=nobody/nothing', 'nobody/nothing', 'HF_HUB_OFFLINE'),
    ('pipeline', '--teacher=a:b', 'there is no folder a:b'),
    ('distill', '--teacher=llama3_8b', 'shape without weights', '--random_weights'),
    ('plan', '--teacher=lama3', 'neither a preset'),
    ('discover', '--teacher={config_none}', 'holds no config.json'),
    ('discover', '--teacher={run_other}', 'describes no model', 'that of a run'),
    ('pipeline', '--teacher={config_cut}', 'config.json is no config', 'no JSON'),
    ('distill', '--teacher={config_list}', 'no JSON object'),
    ('evaluate', '--teacher={config_gpt2}', "model_type='gpt2'"),
    ('compare_arms', '--teacher={config_text}', "hidden_size='16' is no positive integer"),
    ('discover', '--teacher={config_rope}', 'rope_theta is absent'),
    ('discover', '--teacher={config_infinite}', 'rope_theta=inf'),
    ('plan', '--teacher={config_heads}', 'num_attention_heads=0'),
    ('plan', '--teacher={config_groups}', 'num_kv_heads=3 does not divide'),
    ('discover', '--teacher={config_odd}', 'head_dim=5 must be even'),
    ('discover', '--teacher={config_gelu}', "hidden_act='gelu'"),
    ('distill', '--teacher={config_window}', 'sliding_window=7'),
    (
        'plan',
        '--teacher={config_huge}',
        'hidden_size=4611686018427387904',
        'at most 2147483647',
    ),
    ('discover', '--teacher={config_wide}', 'misshapen'),
    ('distill', '--teacher={vocabulary} --student={small}', '30 tokens', '31'),
    ('discover', '--teacher={weights_cut}', 'truncated or no safetensors', 'fetch it again'),
    ('distill', '--teacher={weights_empty}', 'truncated or no safetensors'),
    ('pipeline', '--teacher={weights_garbage}', 'truncated or no safetensors'),
    ('compare_arms', '--teacher={weights_header}', 'truncated or no safetensors'),
    ('discover', '--teacher={weights_none}', 'holds neither'),
    ('distill', '--teacher={weights_pickle}', 'pickle'),
    ('discover', '--teacher={tensor_missing}', 'missing: model.norm.weight'),
    ('distill', '--teacher={tensor_extra}', 'not part of the model: model.norm.bias'),
    ('pipeline', '--teacher={tensor_misshapen}', 'misshapen: model.norm.weight has (15,)'),
    ('compare_arms', '--teacher={tensor_integer}', 'no float that can be read'),
    ('discover', '--teacher={tensor_double}', 'float64'),
    ('discover', '--teacher={index_cut}', 'is no index'),
    ('distill', '--teacher={index_list}', 'is no index'),
    ('discover', '--teacher={index_outside}', 'is no name of a file in this folder'),
    ('evaluate', '--teacher={index_absolute}', 'is no name of a file in this folder'),
    ('pipeline', '--teacher={index_lacks}', 'model-00003', 'which the folder lacks'),
    ('discover', '--teacher={tokenizer_none}', 'holds no tokenizer'),
    ('distill', '--teacher={tokenizer_cut}', 'holds no tokenizer that can be read'),
    ('evaluate', '--teacher={tokenizer_list}', 'holds no tokenizer that can be read'),
    ('pipeline', '--teacher={tokenizer_no_bos}', 'no BOS token'),
    ('distill', '--student={folder}/none', 'no folder'),
    ('distill', '--student={weights_cut}', 'truncated or no safetensors'),
    ('discover', '--student={weights_none}', 'holds neither'),
    ('pipeline', '--student={tensor_missing}', 'missing: model.norm.weight'),
    ('pipeline', '--student={small} --starts=nothing,partial', 'would not start from the student'),
    ('compare_arms', '--starts=checkpoint', 'starts=checkpoint needs the checkpoint of a student'),
    ('distill', '--student={vocabulary}', '31 tokens'),
    ('distill', '--student={trained_badly}', 'training_data.json does not say'),
    ('distill', '--student=llama32_1b', '128256 tokens'),
    ('discover', '--teacher_dtype=int8', 'teacher_dtype=int8'),
]
CIRCUITS = [
    ('evaluate', '--circuits={folder}/none', 'none.safetensors does not exist'),
    ('evaluate', '--circuits=', 'no file of circuits is named'),
    ('compare', '{teacher} {circuits}', 'teacher is a folder: name a file of circuits'),
    ('evaluate', '--circuits={circuits_half}', 'circuits_half.safetensors does not exist'),
    ('evaluate', '--circuits={circuits_cut}', 'is not a circuit, or is damaged'),
    ('evaluate', '--circuits={circuits_pair}', 'was written beside another one'),
    ('evaluate', '--circuits={circuits_old}', 'format 1', 'discover the circuits again'),
    ('evaluate', '--circuits={circuits_narrow}', 'comes from other problems'),
    ('evaluate', '--high=8', 'comes from other problems', 'task flags'),
    ('evaluate', '--split_seed=1', 'comes from another split', 'split_seed=0 there'),
    ('evaluate', '--teacher={other}', 'comes from another model'),
    ('evaluate', '--sizes=.1,2', 'sizes=0.1,2.0', 'at most 1'),
    ('evaluate', '--sizes=', 'sizes='),
    ('evaluate', '--sizes=nan', 'sizes=nan'),
    ('evaluate', '--sizes=a', 'sizes=a', 'write shares'),
    ('evaluate', '--sizes=.0001', 'sizes=0.0001 of 64 neurons is less than one', 'at least'),
    ('settle', '--workers=0', 'workers=0 must be at least 1'),
    ('evaluate', '--ablation=noise', 'ablation=noise', 'counterfactual'),
    ('evaluate', '--evaluate_problems=0', 'evaluate_problems=0'),
    ('evaluate', '--output={file}/study.json', 'is no folder'),
    ('evaluate', '--output={foreign}', 'is a folder: name a file'),
    ('evaluate', '--output={circuits_description}', 'holds something else than a study'),
    ('distill', '--arm=circuits', 'needs --circuits=PATH'),
    ('distill', '--arm=random --circuits={folder}/none', 'does not exist'),
    ('distill', '--arm=kd --circuits={circuits}', 'is not read by --arm=kd', 'leave it out'),
    ('distill', '--arm=all --student={small} --student_circuits={circuits}', 'is not read by'),
    ('distill', '--arm=circuits --circuits={circuits_narrow}', 'layers and neurons'),
    ('distill', '--arm=circuits --circuits={circuits} --split_seed=1', 'another split'),
    ('distill', '--arm=circuits --circuits={circuits} --high=8', 'other problems'),
    ('distill', '--arm=circuits --circuits={circuits} --teacher={other}', 'another model'),
    ('compare', '{folder}/none {circuits}', 'does not exist'),
    ('compare', '{circuits} {circuits_cut}', 'is damaged'),
    ('compare', '{circuits} {circuits_narrow}', 'within one model only'),
    ('compare', '{circuits}', 'takes two files of circuits, and here are 1'),
    ('compare', '', 'here are 0', 'compare FIRST SECOND'),
    ('compare', '{circuits} {circuits} {circuits}', 'unexpected argument'),
]
DISCOVERY = [
    ('discover', '--num_classes=0', 'num_classes=0', 'at least 1'),
    ('pipeline', '--num_classes=-3', 'num_classes=-3'),
    ('discover', '--num_classes=1.5', '--num_classes=1.5'),
    ('compare_arms', '--num_classes=1000', '1000 classes'),
    ('discover', '--density=0', 'density=0'),
    ('pipeline', '--density=1', 'density=1'),
    ('compare_arms', '--density=nan', 'density=nan'),
    ('discover', '--density=1e-9', 'less than one neuron'),
    ('discover', '--objective=best', '--objective=best', 'any_size|causal|published'),
    ('discover', '--loss_weights=colour=1', "'colour' is no term", 'faithfulness'),
    ('pipeline', '--loss_weights=usage', 'write TERM=NUMBER'),
    ('compare_arms', '--loss_weights=usage=much', 'write TERM=NUMBER'),
    ('discover', '--loss_weights=usage=nan', 'usage=nan'),
    ('discover', '--loss_weights=authors', 'write TERM=NUMBER'),
    ('discover', '--loss_weights=usage=1,usage=2', 'usage is given twice'),
    ('discover', '--gumbel_temperature=0', 'temperature=0'),
    ('pipeline', '--gumbel_temperature=inf', 'temperature=inf'),
    ('discover', '--mask_hidden=8', 'mask_hidden=8', 'no option of objective=any_size'),
    ('discover', '--objective=causal --mask_hidden=0', 'hidden=0'),
    ('pipeline', '--cosine', 'objective=published'),
    ('compare_arms', '--objective=published --gate_noise=1', 'gate_noise=1', 'any_size'),
    ('discover', '--smallest_size=.001', 'smallest=0.001', 'less than one'),
    ('pipeline', '--largest_size=1', 'largest=1'),
    ('discover', '--sizes_per_step=0', 'sizes=0'),
    ('compare_arms', '--sizes_per_step=500', 'batch_size=256 is too small'),
    ('discover', '--gate_temperature=0', 'temperature=0'),
    ('pipeline', '--gate_noise=inf', 'noise=inf'),
    ('discover', '--counterfactual_fills=2', 'counterfactual=2'),
    ('compare_arms', '--specific_part=1', 'specific=1'),
    ('discover', '--specific_part=.3 --num_classes=1', 'num_classes=1', 'leave out specific'),
    ('discover', '--first_scores={folder}/none', 'does not exist'),
    ('discover', '--classes=sizes', "no class scheme 'sizes'", 'choose from learned'),
    ('discover', '--classes=answer_matched', 'are drawn from those of circuits'),
    ('discover', '--first_scores={circuits_narrow}', 'first_scores of the teacher have shape'),
    ('pipeline', '--least_accuracy=-1', 'least_accuracy=-1'),
    ('discover', '--classifier_learning_rate=0', 'classifier_learning_rate=0'),
    ('discover', '--discovery_epsilon=0', 'epsilon=0'),
    ('discover', '--encode_layer=2', 'encode_layer=2', '0 to 1'),
    ('pipeline', '--encode_layer=-1', 'encode_layer=-1', '0 to 1'),
    ('discover', '--encode_positions=99', 'encode_positions', '99'),
    ('compare_arms', '--encode_positions=x', 'write integers'),
    ('discover', '--discovery_steps=0', 'steps=0'),
    ('discover', '--discovery_steps=99999999999', 'steps=99999999999', 'less than 2^31'),
    ('pipeline', '--discovery_steps=-2', 'steps=-2'),
    ('discover', '--discovery_batch_size=0', 'batch_size=0'),
    ('compare_arms', '--discovery_batch_size=-8', 'batch_size=-8'),
    *(
        (launcher, '--discovery_batch_size=1000000000', 'takes at least', 'GB', 'microbatches')
        for launcher in ('discover', 'pipeline', 'compare_arms')
    ),
    ('discover', '--least_accuracy=.5', 'the teacher answers', 'set least_accuracy=0'),
    ('pipeline', '--least_accuracy=.5', 'the teacher answers', 'set least_accuracy=0'),
    ('discover', '--first_scores={circuits} --num_classes=3 --split_seed=1', 'another split'),
    ('discover', '--first_scores={circuits} --num_classes=3 --teacher={other}', 'another model'),
    ('discover', '--discovery_microbatches=0', 'microbatches=0'),
    ('pipeline', '--discovery_microbatches=3', 'microbatches=3 does not divide'),
    ('discover', '--discovery_remat=some', '--discovery_remat=some'),
    ('discover', '--discovery_learning_rate=0', 'learning_rate=0'),
    ('pipeline', '--discovery_learning_rate=nan', 'learning_rate=nan'),
    ('compare_arms', '--discovery_learning_rate=inf', 'learning_rate=inf'),
    ('discover', '--discovery_learning_rate=fast', '--discovery_learning_rate=fast'),
    ('discover', '--discovery_seed=-1', 'seed=-1', 'negative'),
    ('pipeline', '--discovery_seed=99999999999', 'seed=99999999999', 'below 2^32'),
]
DISTILLATION = [
    ('distill', '--arm=circiuts', "no arm 'circiuts'", 'choose from kd'),
    ('distill', '--arm=all --similarity=svcca', "no similarity 'svcca'", 'procrustes'),
    ('distill', '--arm=all --align_site=gate', "no site 'gate'", 'neurons'),
    ('distill', '--arm=circuits --align_site=mlp_out', 'align_site=mlp_out has no circuits'),
    ('distill', '--arm=all --align_positions=x', 'align_positions=x', 'or integers'),
    ('distill', '--arm=all --align_positions=99', 'align_positions=99', 'name positions from 0'),
    ('compare_arms', '--row_memory=-1', 'row_memory=-1'),
    ('pipeline', '--min_count=2', 'min_count=2', 'at least 4'),
    ('distill', '--arm=all --layer_pairs=hungarian_cka', 'a student from nothing does nothing yet'),
    ('distill', '--arm=all --most_pairs=2', 'most_pairs=2', 'weighs none'),
    ('compare_arms', '--row_memory=8 --similarity=rsa', 'row_memory=8 is for similarity=cka'),
    ('distill', '--arm=all --layer_pairs=first', "layer_pairs='first'"),
    ('distill', '--arm=all --layer_pairs=9:9', '9:9 is not a pair'),
    ('distill', '--arm=all --layer_pairs=', "layer_pairs=''"),
    ('distill', '--arm=all --layer_pairs=0:0,0', "layer_pairs='0:0,0'"),
    ('distill', '--arm=all --batch_size=3', 'CKA needs at least 4'),
    ('distill', '--arm=all --batch_size=64', 'batch_size=64 is more than the', 'larger share'),
    ('compare_arms', '--batch_size=64', 'batch_size=64 is more than the', 'larger share'),
    ('distill', '--weight=-1', 'weight=-1'),
    ('pipeline', '--weight=nan', 'weight=nan'),
    ('compare_arms', '--weight=inf', 'weight=inf'),
    ('distill', '--temperature=0', 'temperature=0'),
    ('distill', '--temperature=nan', 'temperature=nan'),
    ('pipeline', '--temperature=inf', 'temperature=inf'),
    ('distill', '--top_k=0', 'top_k=0'),
    ('distill', '--top_k=31', 'top_k=31', '30 tokens'),
    ('distill', '--init_std=0', 'init_std=0'),
    ('compare_arms', '--init_std=nan', 'init_std=nan'),
    ('distill', '--init_std=inf', 'init_std=inf'),
    ('distill', '--steps=0', 'steps=0'),
    ('distill', '--batch_size=0', 'batch_size=0'),
    ('distill', '--batch_size=1000000000', 'batch_size=1000000000 takes at least', 'GB'),
    (
        'pipeline',
        '--arms=kd --rediscover=kd --export=kd --batch_size=1000000000',
        'batch_size=1000000000 takes at least',
        'GB',
    ),
    ('distill', '--batch_size=64 --microbatches=3', 'microbatches=3 does not divide'),
    ('distill', '--compute_dtype=float16', '--compute_dtype=float16'),
    ('distill', '--remat=most', '--remat=most'),
    ('distill', '--learning_rate=-1', 'learning_rate=-1'),
    ('distill', '--learning_rate=inf', 'learning_rate=inf'),
    ('distill', '--weight_decay=-1', 'weight_decay=-1'),
    ('pipeline', '--weight_decay=nan', 'weight_decay=nan'),
    ('distill', '--evaluate_every=0', 'evaluate_every=0'),
    ('distill', '--seed=-1', 'seed=-1'),
    ('distill', '--export=first', '--export=first'),
    ('compare_arms', '--arms=kd,circiuts', 'kd,circiuts', 'choose from kd'),
    ('pipeline', '--arms=', 'arms='),
    ('compare_arms', '--starts=middle', 'starts=middle'),
    ('compare_arms', '--starts=nothing,nothing', 'starts=nothing,nothing', 'each of them once'),
    ('pipeline', '--starts=', 'starts='),
    ('compare_arms', '--seeds=', 'seeds='),
    ('pipeline', '--seeds=a,b', 'seeds=a,b', 'integers'),
    ('compare_arms', '--seeds=0,0', 'each of them once'),
    ('pipeline', '--seeds=0,-1', 'seeds=-1', 'negative'),
    ('compare_arms', '--seeds=0,4294967296', 'seeds=4294967296', 'below 2^32'),
    ('compare_arms', '--head_start_steps=0 --starts=partial', 'steps=0'),
    ('compare_arms', '--arm_problems=0', 'arm_problems=0: at least 1'),
    ('pipeline', '--rediscover=wrongg', 'rediscover=wrongg'),
    ('pipeline', '--export=best', 'export=best', 'circuits'),
    ('pipeline', '--methods=one_masc', "no method 'one_masc'", 'one_mask'),
    ('pipeline', '--evaluate_problems=-4', 'evaluate_problems=-4'),
    ('pipeline', '--num_classes=1', 'needs at least 2 classes'),
]
RUNS = [
    ('discover', '--workdir={file}', '{file}', 'cannot be written'),
    ('pipeline', '--workdir=', 'names no folder'),
    ('distill', '--workdir={file}/run', 'cannot be written'),
    ('pipeline', '--workdir={foreign}', 'thesis.tex'),
    ('discover', '--workdir={run_other}', 'holds another run', 'another --workdir'),
    ('pipeline', '--workdir={run_other}', 'another run, of discover and not of pipeline'),
    ('train_teacher', '--workdir={run_cut}', 'is damaged'),
    ('discover', '--workdir={run_list}', 'is damaged'),
    ('discover', '--workdir=/proc/none/run', 'cannot be written'),
    ('discover', '--checkpoint_every=0', 'checkpoint_every=0'),
    ('distill', '--checkpoint_every=-1', 'checkpoint_every=-1'),
    ('pipeline', '--diagnose_every=0', 'diagnose_every=0'),
    ('discover', '--profile_steps=5', 'profile_steps=5', 'FIRST:END'),
    ('distill', '--profile_steps=9:3', 'profile_steps=9:3'),
    ('pipeline', '--profile_steps=a:b', 'profile_steps=a:b'),
    ('discover', '--profile_steps=-1:3', 'profile_steps=-1:3'),
    ('discover', '--tensor=3', 'tensor=3', '1 devices'),
    ('distill', '--tensor=0', 'tensor=0'),
    ('pipeline', '--fsdp=0', 'fsdp=0'),
    ('evaluate', '--fsdp=2', 'fsdp=2'),
    ('train_teacher', '--tensor=-1', 'tensor=-1'),
    ('discover', '--coordinator=localhost:1', 'num_processes'),
    ('discover', '--num_processes=2', 'coordinator'),
    ('distill', '--process_id=0', 'coordinator'),
    ('discover', '--coordinator=a:1 --num_processes=2 --process_id=2', 'process_id=2'),
    ('discover', '--coordinator=a:1 --num_processes=0 --process_id=0', 'num_processes=0'),
    (
        'discover',
        '--coordinator=a --num_processes=2 --process_id=0',
        "coordinator='a' is not host:port",
    ),
    ('discover', '--compilation_cache={file}/cache', '--compilation_cache'),
]
# Refused once the processes of a run have found each other: until then no device may be touched.
for launcher, text, words in (
    ('evaluate', '--split_seed=1', 'comes from another split'),
    ('convert', '--source={weights_cut}', 'truncated'),
    ('settle', '--workdir={foreign}', 'thesis.tex'),
    ('twins', '--workdir={foreign}', 'thesis.tex'),
    *(
        (launcher, '--workdir={foreign}', 'thesis.tex')
        for launcher in ('discover', 'distill', 'pipeline', 'compare_arms', 'train_teacher')
    ),
):
    alone = f'--coordinator={{address_{launcher}}} --num_processes=1 --process_id=0'
    RUNS.append((launcher, f'{alone} {text}', words))
OTHERS = [
    ('convert', '--source={folder}/none', 'no folder'),
    ('convert', '--source={weights_cut}', 'truncated'),
    ('convert', '--source={config_gelu}', 'hidden_act'),
    ('convert', '--source={orbax} --to=huggingface', 'damaged'),
    ('convert', '--target={foreign}', 'exists and is not empty'),
    ('convert', '--target={file}/model', 'is no folder'),
    ('convert', '--to=torch', '--to=torch', 'huggingface|orbax'),
    ('convert', '--dtype=int8', '--dtype=int8'),
    ('convert', '--max_shard_gb=0', 'max_shard_gb=0', 'above 0'),
    ('convert', '--max_shard_gb=nan', 'max_shard_gb=nan'),
    ('convert', '--max_shard_gb=inf', 'max_shard_gb=inf'),
    ('convert', '--golden={folder}/none', 'is no golden file'),
    ('convert', '--golden={golden}', 'is no golden file'),
    ('convert', '--golden={golden} --save_golden={new}', 'no --golden'),
    ('convert', '--save_golden={foreign}', 'is a folder'),
    ('convert', '--save_golden={golden}', 'golden exists: name another file'),
    ('train_teacher', '--hidden_size=0', 'hidden_size=0'),
    ('train_teacher', '--hidden_size=-4', 'hidden_size=-4'),
    ('train_teacher', '--heads=0', 'heads=0'),
    ('train_teacher', '--heads=3', 'heads=3 does not divide'),
    ('train_teacher', '--kv_heads=3', 'kv_heads=3 does not divide'),
    ('train_teacher', '--kv_heads=0', 'kv_heads=0'),
    ('train_teacher', '--layers=0', 'layers=0'),
    ('train_teacher', '--layers=9999999', 'num_layers=9999999', 'at most 65535'),
    ('train_teacher', '--intermediate_size=0', 'intermediate_size=0'),
    ('train_teacher', '--max_number=5', 'max_number=5'),
    ('train_teacher', '--max_number=1000', 'max_number=1000'),
    ('train_teacher', '--steps=0', 'steps=0'),
    ('train_teacher', '--batch_size=0', 'batch_size=0'),
    ('train_teacher', '--batch_size=1000000000', 'batch_size=1000000000 takes at least', 'GB'),
    ('train_teacher', '--learning_rate=nan', 'learning_rate=nan'),
    ('train_teacher', '--weight_decay=inf', 'weight_decay=inf'),
    ('train_teacher', '--seed=-1', 'seed=-1'),
    ('train_teacher', '--output={foreign}', 'exists'),
    ('train_teacher', '--output={file}/model', 'is no folder'),
    ('train_teacher', '--evaluate_every=-1', 'evaluate_every=-1'),
    ('plan', '--target=v9:4x4', 'v9:4x4'),
    ('plan', '--target=v5e:5', 'target=v5e:5'),
    ('plan', '--target=cpu:0', 'cpu:0'),
    ('plan', '--target=cpu:4 --fsdp=3', 'fsdp=3 does not divide'),
    ('plan', '--target=cpu:4 --fsdp=2 --tensor=4', 'is not the 4 devices'),
    ('plan', '--job=dream', '--job=dream'),
    ('plan', '--recipe={folder}/none', 'is no file'),
    ('plan', '--recipe={recipe_unknown}', '--steps=many'),
    ('plan', '--recipe={task_binary}', 'task_binary is no text'),
    ('plan', '--flagfile={recipe_other}', 'no flag --workdir', '--recipe=FILE'),
    ('plan', '--tokens_per_pass=0', 'tokens_per_pass=0'),
    ('plan', '--output={file}/plan.json', 'is no folder'),
    ('plan', '--output={foreign}', 'is a folder'),
    ('plan', '--output={file}', 'holds something else than a plan'),
    ('plan', '--output={circuits_description}', 'holds something else than a plan'),
    ('plan', '--layer_pairs=7:7', '7:7 is not a pair'),
    ('report', '', 'results.json does not exist'),
    ('report', '--workdir={results_cut}', 'is damaged'),
    ('report', '--workdir={results_list}', 'is damaged'),
    ('report', '--workdir={file}', 'file is a file: name the folder of the run'),
    ('report', '--output=a.html', 'output=a.html is for --compare or --figure'),
    ('report', '--figure=methods-1 --output={file}', 'name a file that ends with .svg'),
    ('report', '--figure=methods-1 --output={file}/a.svg', 'is no folder'),
    ('report', '--compare=yes', '--compare=yes: write true or false, or no value'),
    ('benchmark', '--suite=speed', '--suite=speed'),
    ('benchmark', '--model=llama9', '--model=llama9'),
    ('benchmark', '--devices=0', 'devices=0'),
    ('benchmark', '--output={file}/result.json', 'is no folder'),
    ('benchmark', '--output={foreign}', 'is a folder'),
    ('benchmark', '--output={circuits_description}', 'holds something else than a benchmark'),
    ('benchmark', '--scratch={folder}/none', 'scratch'),
]
FLAGS = [
    ('discover', '--discovery_step=5', 'no flag --discovery_step', '--discovery_steps'),
    ('evaluate', '--workdir=x', 'no flag --workdir', 'evaluate'),
    ('pipeline', '--seed=3', 'no flag --seed', '--seeds'),
    ('compare_arms', '--arm=kd', 'no flag --arm', '--arms'),
    ('train_teacher', '--batchsize=9', 'no flag --batchsize', '--batch_size'),
    ('report', '--work_dir=9', 'no flag --work_dir', '--workdir'),
    ('discover', '--random_weights=perhaps', '--random_weights=perhaps'),
    ('discover', '--flagfile={folder}/none.flags', 'none.flags'),
    ('discover', '--flagfile={task_binary}', 'flagfile: ', 'a flag a line'),
    ('plan', '--steps', '--steps'),
    ('distill', 'seeds=3', "unexpected argument 'seeds=3'"),
    ('convert', '--to', '--to'),
    ('compare', '--plugin=3', 'no flag --plugin', '--plugins'),
    ('benchmark', '--device=3', 'no flag --device', '--devices'),
]
REQUIRED = [
    ('evaluate', '--circuits'),
    ('convert', '--source'),
    ('benchmark', '--suite'),
]
CASES = [
    *(PROBLEMS + TASK_FILES + MODELS + CIRCUITS + DISCOVERY + DISTILLATION + RUNS),
    *(OTHERS + FLAGS),
]


def name_of(at):
    return f'{CASES[at][0]}-{at}' if at < len(CASES) else f'{REQUIRED[at - len(CASES)][0]}-{at}'


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder, streams = (tmp_path_factory.mktemp(name) for name in ('mistakes', 'streams'))
    files = make_files(folder)
    before = snapshot(folder)
    commands = {}
    for at, (launcher, text, *_) in enumerate(CASES):
        new = folder / f'new-{at}'
        flagged = text.startswith('--')
        own = re.split(r' (?=--)', text) if flagged else text.split()
        sound = [flag for flag in SOUND[launcher] if flag not in ARITHMETIC or '--task' not in text]
        flags = [flag.format(new=new, **files) for flag in (*sound, *own)]
        commands[name_of(at)] = [launcher, *flags]
    for at, (launcher, _) in enumerate(REQUIRED, len(CASES)):
        commands[name_of(at)] = [launcher]
    ended = run_launchers(commands, streams, at_once=os.cpu_count(), seconds=30)
    return files, ended, before, snapshot(folder)


def snapshot(folder):
    return {
        path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob('*'))
    }


def wrong_with(outcome, words):
    """Returns what is wrong with how a launcher has ended, '' if nothing is."""
    lines = outcome.err.strip().splitlines()
    if outcome.code != 1:
        return f'status {outcome.code}: {lines[-3:]}'
    if len(lines) != 1 or not lines[0].startswith('error: '):
        return f'{len(lines)} lines: {lines[-3:]}'
    if absent := [word for word in words if word not in lines[0]]:
        return f'{absent} not in {lines[0]}'
    # What the models or the disk refuse comes after the line that tells what is going to be done.
    told = re.fullmatch(
        r'\w+: .* (on 1 device|on \d+ unseen problems|orbax|huggingface).*\n', outcome.out
    )
    return f'printed {outcome.out}' if outcome.out and not told else ''


@pytest.mark.parametrize('at', range(len(CASES) + len(REQUIRED)), ids=name_of)
def test_a_mistake_is_one_line_and_status_1(outcomes, at):
    files, ended, *_ = outcomes
    if at < len(CASES):
        words = [word.format(**files) for word in CASES[at][2:]]
    else:
        words = [REQUIRED[at - len(CASES)][1], 'must be given']
    assert not wrong_with(ended[name_of(at)], words)


def test_nothing_is_claimed_or_changed(outcomes):
    *_, before, after = outcomes
    assert after == before


def test_there_are_mistakes_enough():
    assert len(CASES) + len(REQUIRED) >= 200
    assert {launcher for launcher, *_ in CASES} == SOUND.keys()
